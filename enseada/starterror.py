"""Why a server cannot start: known failures, which are told in a sentence and never with a traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class StartError(Exception):
    """Why it cannot start: a sentence for people that says what to do."""


def sentences(group: BaseExceptionGroup[Any]) -> list[str]:
    """What is to be said of a group of StartErrors, each sentence once."""
    return list(dict.fromkeys(map(str, _leaves(group))))


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each
