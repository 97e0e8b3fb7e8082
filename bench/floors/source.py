"""The floor of downloads: sendfile from bare epoll.

``python -m bench.floors.source PORT FOLDER`` answers ``GET /path`` with the file of that path, on keep-alive
connections, from one thread.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from dataclasses import dataclass

SEND_BYTES = 1 << 20
HEAD_BYTES = 16 * 1024


@dataclass(slots=True)
class Download:
    """One connection, and the file that is under way on it."""

    connection: socket.socket
    file: int = -1
    offset: int = 0
    size: int = 0


class Source:
    """The loop."""

    def __init__(self, listener: socket.socket, folder: str) -> None:
        self._listener = listener
        self._folder = folder
        self._epoll = select.epoll()
        self._downloads: dict[int, Download] = {}

    def run(self) -> None:
        """Until the process is ended."""
        self._epoll.register(self._listener, select.EPOLLIN)
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._listener.fileno():
                    connection, _ = self._listener.accept()
                    connection.setblocking(False)
                    self._downloads[connection.fileno()] = Download(connection)
                    self._epoll.register(connection, select.EPOLLIN)
                    continue
                download = self._downloads[fd]
                try:
                    if download.file < 0 and not self._begin(download):
                        continue
                    self._send(download)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    self._end(download)

    def _begin(self, download: Download) -> bool:
        """Read a head, which comes in one segment, and send ours; False when the client has closed."""
        head = download.connection.recv(HEAD_BYTES)
        if not head:
            self._end(download)
            return False
        path = head.split(b" ", 2)[1].decode()
        if path == "/v2/":
            download.connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            return False
        download.file = os.open(self._folder + path, os.O_RDONLY)
        download.offset, download.size = 0, os.fstat(download.file).st_size
        self._epoll.modify(download.connection, select.EPOLLOUT)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % download.size
        download.connection.send(head, socket.MSG_MORE)
        return True

    def _send(self, download: Download) -> None:
        # One call a turn, so that no client waits for another.
        count = min(SEND_BYTES, download.size - download.offset)
        download.offset += os.sendfile(download.connection.fileno(), download.file, download.offset, count)
        if download.offset == download.size:
            os.close(download.file)
            download.file = -1
            self._epoll.modify(download.connection, select.EPOLLIN)

    def _end(self, download: Download) -> None:
        if download.file >= 0:
            os.close(download.file)
        self._epoll.unregister(download.connection)
        del self._downloads[download.connection.fileno()]
        download.connection.close()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as listening:
        Source(listening, sys.argv[2]).run()
