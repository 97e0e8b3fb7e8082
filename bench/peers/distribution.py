"""distribution, the registry that most people run: Debian's 2.8.2 as ``docker-registry``."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.accounts import Tree
from bench.peers.tokens import ISSUER, SERVICE, Issuer
from bench.running import first_status, free_port, output_of, program
from bench.server import Launch, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Distribution:
    """``docker-registry``."""

    name = "distribution"

    @contextmanager
    def start(self, folder: Path, workers: int) -> Iterator[Server]:
        """See `bench.server.Peer`."""
        port, issuer, data = free_port(), Issuer(), folder / "data"
        issuer.write_certificate(folder / "certificate.pem")
        settings = folder / "config.yml"
        settings.write_text(json.dumps(configuration(folder, port)))  # JSON is YAML
        environment = {"GOMAXPROCS": str(workers), "OTEL_TRACES_EXPORTER": "none"}
        launch = Launch([self.program(), "serve", settings], environment, folder / "log")
        began = time.perf_counter()
        with program(launch.command, launch.log, environment=launch.environment) as process:
            first_status(port, process, launch.log)
            seconds = time.perf_counter() - began
            yield Server(
                self.name,
                self.version(),
                port,
                Tree(process.pid),
                f"GOMAXPROCS={workers}, local disk, descriptors cached in memory, a bearer token (ES256, its key by "
                f"id) verified at each request, no access log beside its own lines, which go into a file",
                f"Bearer {issuer.token(self.key_id(issuer))}",
                data,
                start_seconds=seconds,
                launch=launch,
                documents=lambda: links(data),
            )

    def program(self) -> str | Path:
        """What is started. Raises CannotMeasure."""
        return "docker-registry"

    def key_id(self, issuer: Issuer) -> str:
        """How it names the key that signs tokens."""
        return issuer.fingerprint

    def version(self) -> str:
        """``distribution 2.8.2+ds1``."""
        return f"{self.name} {output_of(self.program(), '--version').split()[-1]}"


def links(data: Path) -> int:
    """How many small files it has beside those of blobs: its links, which are what our documents are."""
    return sum(1 for _ in (data / "docker" / "registry" / "v2" / "repositories").rglob("link"))


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
