"""The floor of uploads: receive, sha256, write and fsync, and nothing else.

``python -m bench.floors.sink PORT FOLDER`` takes connections. Each sends eight bytes with a length and then so many
bytes; when those are on the disk it is answered their sha256, and may send the next. One thread receives, hashes and
writes; fsyncs wait in threads of their own, begun early by sync_file_range. That is the order of a server's work too.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import select
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

BUFFER_BYTES = 1 << 20
WRITE_OUT_BYTES = 8 << 20
SYNC_FILE_RANGE_WRITE = 2
LENGTH = struct.Struct("!Q")
FSYNCS = 8
"""At one time."""

sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


@dataclass(slots=True)
class Upload:
    """One connection, and the file that is under way on it."""

    connection: socket.socket
    left: int = 0
    file: int = -1
    written: int = 0
    pushed_out: int = 0
    digest: _Hash = field(default_factory=hashlib.sha256)


class Sink:
    """The loop."""

    def __init__(self, listener: socket.socket, folder: str) -> None:
        self._listener = listener
        self._folder = folder
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._epoll = select.epoll()
        self._uploads: dict[int, Upload] = {}
        self._threads = ThreadPoolExecutor(FSYNCS)
        self._count = 0

    def run(self) -> None:
        """Until the process is ended."""
        self._epoll.register(self._listener, select.EPOLLIN)
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._listener.fileno():
                    connection, _ = self._listener.accept()
                    self._uploads[connection.fileno()] = Upload(connection)
                    self._epoll.register(connection, select.EPOLLIN)
                else:
                    self._receive(self._uploads[fd])

    def _receive(self, upload: Upload) -> None:
        if not upload.left:
            head = upload.connection.recv(LENGTH.size, socket.MSG_WAITALL)
            if len(head) < LENGTH.size:
                self._epoll.unregister(upload.connection)
                del self._uploads[upload.connection.fileno()]
                upload.connection.close()
                return
            (upload.left,) = LENGTH.unpack(head)
            self._count += 1
            upload.file = os.open(f"{self._folder}/{self._count}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            upload.written = upload.pushed_out = 0
            upload.digest = hashlib.sha256()
            return
        count = upload.connection.recv_into(self._buffer, min(upload.left, BUFFER_BYTES))
        if not count:
            raise ConnectionError("a load that ends within its bytes")
        chunk = self._buffer[:count]
        upload.digest.update(chunk)
        os.write(upload.file, chunk)
        upload.left -= count
        upload.written += count
        if upload.written - upload.pushed_out >= WRITE_OUT_BYTES or not upload.left:
            sync_file_range(upload.file, upload.pushed_out, upload.written - upload.pushed_out, SYNC_FILE_RANGE_WRITE)
            upload.pushed_out = upload.written
        if not upload.left:
            self._threads.submit(_end, upload.connection, upload.file, upload.digest.digest())


def _end(connection: socket.socket, file: int, digest: bytes) -> None:
    os.fsync(file)
    os.close(file)
    connection.sendall(digest)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as listening:
        Sink(listening, sys.argv[2]).run()
