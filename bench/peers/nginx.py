"""nginx: the limit of small answers and of downloads, since it checks no token and looks nothing up.

It serves files by their path, as `bench.image.hold` lays them out, and a constant answer for ``/v2/``.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.accounts import Tree
from bench.errors import CannotMeasure
from bench.running import clean_environment, first_status, free_port, program
from bench.server import Launch, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIGURATION = """
{user}
worker_processes {workers};
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log {folder}/access.log;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  default_type application/octet-stream;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/files;
    location = /v2/ {{ default_type application/json; return 200 "{{}}"; }}
  }}
}}
"""


class Nginx:
    """``nginx`` with as many workers as there are to be cores."""

    name = "nginx"

    @contextmanager
    def start(self, folder: Path, workers: int) -> Iterator[Server]:
        """See `bench.server.Peer`."""
        port, files = free_port(), folder / "files"
        files.mkdir(parents=True)
        settings = folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # its workers must read a folder that is ours alone
        settings.write_text(CONFIGURATION.format(folder=folder, port=port, workers=workers, user=user))
        launch = Launch(["nginx", "-c", settings, "-p", folder, "-g", "daemon off;"], {}, folder / "log")
        began = time.perf_counter()
        with program(launch.command, launch.log) as process:
            first_status(port, process, launch.log)
            seconds = time.perf_counter() - began
            yield Server(
                self.name,
                version(),
                port,
                Tree(process.pid),
                f"{workers} worker{'s' * (workers > 1)}, static files by sendfile, no authentication, an access log",
                data=files,
                kind="files",
                start_seconds=seconds,
                launch=launch,
            )


def version() -> str:
    """``nginx 1.22.1``. Raises CannotMeasure."""
    try:
        done = subprocess.run(["nginx", "-v"], env=clean_environment(), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as reason:
        raise CannotMeasure(f"nginx does not tell its version: {reason}") from None
    return done.stderr.strip().rpartition(": ")[2].replace("/", " ")
