"""A trio program that serves a page of its own and, beside it, a registry, behind the same listeners.

    python examples/beside.py 127.0.0.1:8080 FOLDER
    docker login 127.0.0.1:8080
"""

import sys
from dataclasses import replace
from pathlib import Path

import trio

import enseada


async def main(address: str, folder: str) -> None:
    """Serve until the program is ended."""
    settings = enseada.load_settings()  # ENSEADA_ADMIN_PASSWORD, ENSEADA_ANONYMOUS and so on
    registry = enseada.Registry(replace(settings, data=Path(folder)))
    pushes = 0

    async def handler(request: enseada.Request) -> enseada.Response:
        nonlocal pushes
        if request.path == "/":
            return enseada.Response(200, body=f"{pushes} images were pushed since the start\n".encode())
        response = await registry(request)
        pushes += request.method == "PUT" and "/manifests/" in request.path and response.status == 201
        return response

    async with registry.running(), trio.open_nursery() as nursery:
        if registry.admin_password is not None:
            print("admin password:", registry.admin_password, flush=True)
        listeners = await enseada.open_listeners([address])
        await nursery.start(enseada.serve_http, handler, listeners)
        print("listening on", *(listener.address for listener in listeners), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
