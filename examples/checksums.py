"""A checksum service on Enseada's low-level server: nothing in it has to do with packages.

    python examples/checksums.py 127.0.0.1:8080
    curl --upload-file large.iso http://127.0.0.1:8080/
"""

import hashlib
import sys

import trio

import enseada


async def checksum(request: enseada.Request) -> enseada.Response:
    """Answer a POST or a PUT with the SHA-256 of its content, of whatever size, and keep none of it."""
    if request.method not in ("POST", "PUT"):
        raise enseada.RegistryError(405, "METHOD", "POST what is to be summed", headers=[("Allow", "POST, PUT")])
    digest = hashlib.sha256()
    async for chunk in request.body:  # lent until the next turn of this loop
        digest.update(chunk)
    headers = enseada.Headers.of({"Content-Type": "text/plain"})
    return enseada.Response(200, headers, f"{digest.hexdigest()}\n".encode())


async def main(address: str) -> None:
    """Serve until the program is ended."""
    listeners = await enseada.open_listeners([address])
    print("listening on", *(listener.address for listener in listeners), flush=True)
    await enseada.serve_http(checksum, listeners)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
