"""The content of an answer: whether there is any, how long it is, where it is read from, and what is said instead.

One rule: whatever an answer was read from is closed, also when the answer is never sent.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeGuard

import anyio

from enseada.http import BodyError, RegistryError
from enseada.logs import mask_path
from enseada.wire import plain, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from enseada.http import Content, Request, Response, ResponseBody

logger = logging.getLogger("enseada.server")

CLOSE_TIMEOUT = 2.0
"""Seconds for closing what an answer was read from, behind a shield."""


def has_no_content(request: Request, response: Response) -> bool:
    return request.method == "HEAD" or response.status in (204, 304)


def is_content(body: ResponseBody) -> TypeGuard[Content]:
    return hasattr(body, "file")


def content_length(request: Request, response: Response) -> int | None:
    """What Content-Length says: the content's bytes, or those that a GET would have got; None: nothing is said."""
    length = response.length
    if isinstance(response.body, bytes):
        if request.method != "HEAD" or length is None:
            length = len(response.body)
    elif is_content(response.body):
        length = response.body.length
    if response.status == 204 or (response.status == 304 and response.length is None):
        return None  # RFC 9110 8.6
    return length


async def first_piece(
    request: Request, response: Response, *, by_file: bool = True
) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """Begin to read an answer's content, so that a source which fails at once can still be told by a status.

    ``by_file``: whoever asks sends what is in a file from there, and does not have it read.
    """
    body = response.body
    if isinstance(body, bytes) or has_no_content(request, response):
        return b"", None
    if by_file and is_content(body) and body.file is not None:
        return b"", None
    pieces = aiter(body)
    return await anext(pieces, b""), pieces


async def close_all(*sources: object) -> None:
    """Close what an answer was read from, also when cancelled. A failure is logged: the answer has been made."""
    for source in sources:
        close = getattr(source, "aclose", None)
        if close is not None:
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                try:
                    await close()
                except Exception:
                    logger.exception("an answer's content could not be closed")


def instead(request: Request, error: Exception, broken: BodyError | None) -> tuple[str, Response | None]:
    """What is logged and answered where there is no answer, because of ``error``; None: there is nobody to be told.

    ``broken``: what was the matter with the request's content, if anything was.
    """
    if broken is not None and _is_only(BodyError, error):
        return str(broken), None if broken.status is None else plain(broken.status, str(broken))
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, RegistryError):
        return said, refusal(error)
    logger.error("request %s failed: %s %s", request.id, request.method, mask_path(request.path), exc_info=error)
    return said, plain(500, f"internal error, request {request.id}")


def _is_only(kind: type[Exception], error: Exception) -> bool:
    """Whether ``error`` is of that kind, or a group in which nothing else is."""
    if isinstance(error, ExceptionGroup):
        return all(_is_only(kind, each) for each in error.exceptions)
    return isinstance(error, kind)
