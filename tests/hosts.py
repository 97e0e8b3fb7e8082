"""A program that hosts a registry as ASGI, in the ways that people do, with the command line of `enseada serve`.

    python -m tests.hosts SERVER FRAMEWORK MOUNT serve --data FOLDER --listen 127.0.0.1:0 [--anonymous push]

SERVER: ``uvicorn``, ``uvicorn-httptools``, ``hypercorn-asyncio`` or ``hypercorn-trio``; FRAMEWORK: ``none``,
``starlette``, ``fastapi``, or ``forgetful``, a Starlette application that does not run what it mounts; MOUNT: a path.
Imports what it is asked for and no more, because all of it takes longer than most tests.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import enseada

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import hypercorn
    from starlette.requests import Request

HELLO = "hello from the host\n"


def application(framework: str, mount: str, registry: enseada.Registry) -> Any:
    """The host's application, with the registry in it, and ``/hello`` beside it."""
    mounted = enseada.asgi(registry)
    if framework == "none":
        return mounted

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        if framework == "forgetful":
            yield
        else:
            async with registry.running():
                yield

    if framework == "fastapi":
        import fastapi

        app = fastapi.FastAPI(lifespan=lifespan)

        @app.get("/hello", response_class=fastapi.responses.PlainTextResponse)
        async def hello() -> str:
            return HELLO

        app.mount(mount, mounted)
        return app

    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def greet(request: Request) -> PlainTextResponse:
        return PlainTextResponse(HELLO)

    return Starlette(routes=[Route("/hello", greet), Mount(mount, app=mounted)], lifespan=lifespan)


def run_uvicorn(app: Any, listening: socket.socket, http: str, loop: str) -> None:
    import uvicorn

    config = uvicorn.Config(app, http=http, loop=loop, lifespan="on", log_level="info")
    # It raises the signal that has ended it once more, when it has ended.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])


def hypercorn_config(listening: socket.socket) -> hypercorn.Config:
    import hypercorn

    config = hypercorn.Config()
    config.bind = [f"fd://{os.dup(listening.fileno())}"]
    return config


async def run_hypercorn_asyncio(app: Any, listening: socket.socket) -> None:
    import hypercorn.asyncio

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await hypercorn.asyncio.serve(app, hypercorn_config(listening), shutdown_trigger=ended.wait)


async def run_hypercorn_trio(app: Any, listening: socket.socket) -> None:
    import hypercorn.trio
    import trio

    with trio.open_signal_receiver(signal.SIGTERM) as signals:

        async def ended() -> None:
            async for _ in signals:
                return

        await hypercorn.trio.serve(app, hypercorn_config(listening), shutdown_trigger=ended)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("server", "framework", "mount", "command", "--data", "--listen", "--anonymous"):
        parser.add_argument(name)
    given = parser.parse_args()
    settings = replace(enseada.load_settings(), data=Path(given.data), anonymous=given.anonymous or "none")
    app = application(given.framework, given.mount, enseada.Registry(settings))
    host, _, port = given.listen.rpartition(":")
    with socket.create_server((host, int(port)), backlog=64) as listening:
        print(f"process {os.getpid()}", file=sys.stderr)
        print("listening on http://{}:{}".format(*listening.getsockname()), file=sys.stderr, flush=True)
        match given.server:
            case "uvicorn":
                run_uvicorn(app, listening, "h11", "asyncio")
            case "uvicorn-httptools":
                run_uvicorn(app, listening, "httptools", "uvloop")
            case "hypercorn-asyncio":
                asyncio.run(run_hypercorn_asyncio(app, listening))
            case "hypercorn-trio":
                import trio

                trio.run(run_hypercorn_trio, app, listening)


if __name__ == "__main__":
    main()
