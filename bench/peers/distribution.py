"""distribution, the registry that most people run: Debian's 2.8.2 as ``docker-registry``."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.accounts import Tree
from bench.peers.tokens import ISSUER, SERVICE, Issuer
from bench.running import free_port, output_of, program, wait_until_up
from bench.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Distribution:
    """``docker-registry``."""

    name = "distribution"
    program = "docker-registry"

    @contextmanager
    def start(self, folder: Path, workers: int) -> Iterator[Server]:
        """See `bench.server.Peer`."""
        log, port, issuer = folder / "log", free_port(), Issuer()
        folder.mkdir(parents=True, exist_ok=True)
        issuer.write_certificate(folder / "certificate.pem")
        settings = folder / "config.yml"
        settings.write_text(json.dumps(configuration(folder, port)))  # JSON is YAML
        environment = {"GOMAXPROCS": str(workers), "OTEL_TRACES_EXPORTER": "none"}
        with program([self.program, "serve", settings], log, environment=environment) as process:
            wait_until_up(port, process, log)
            yield Server(
                self.name,
                self.version(),
                port,
                Tree(process.pid),
                f"GOMAXPROCS={workers}, local disk, descriptors cached in memory, a bearer token (ES256, its key "
                f"by id) checked at each request, no access log beside its own lines, which go into a file",
                f"Bearer {issuer.token()}",
                folder / "data",
            )

    def version(self) -> str:
        """``distribution 2.8.2+ds1``."""
        return f"{self.name} {output_of(self.program, '--version').split()[-1]}"


def configuration(folder: Path, port: int) -> dict[str, Any]:
    """What Debian's package configures, with tokens for passwords and without the second log."""
    return {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {
            "cache": {"blobdescriptor": "inmemory"},
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": "bench"},
        "auth": {
            "token": {
                "realm": f"http://127.0.0.1:{port}/token",
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(folder / "certificate.pem"),
            }
        },
    }
