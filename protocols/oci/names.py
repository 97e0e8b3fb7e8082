"""The grammar of names, tags and references (distribution-spec, "Pulling manifests").

A name is at most 255 characters, as in every registry whose clients prepend a host to it.
"""

from __future__ import annotations

import re

from enseada.protocols.digests import Digest
from enseada.protocols.oci.errors import error

MAX_NAME = 255
"""Characters of a repository name."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether ``text`` is a repository name."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def check_name(text: str) -> str:
    """Return ``text`` if it is a repository name; raise NAME_INVALID (400) otherwise."""
    if not is_name(text):
        raise error(
            "NAME_INVALID",
            f"invalid repository name: at most {MAX_NAME} lower-case letters and digits, with single separators "
            "('.', '_', '__', '-' or '/') between them",
            {"name": text[: MAX_NAME + 1]},
        )
    return text


def repository_of(name: str) -> str:
    """The repository to which an image's name belongs: its first component."""
    return name.partition("/")[0]


def is_tag(text: str) -> bool:
    """Whether ``text`` is a tag."""
    return _TAG.fullmatch(text) is not None


def check_tag(text: str) -> str:
    """Return ``text`` if it is a tag; raise TAG_INVALID (400) otherwise."""
    if not is_tag(text):
        message = "invalid tag: at most 128 of [a-zA-Z0-9._-], not beginning with '.' or '-'"
        raise error("TAG_INVALID", message, {"tag": text[:256]})
    return text


def check_digest(text: str) -> Digest:
    """Return the digest that ``text`` writes; raise DIGEST_INVALID (400) otherwise."""
    try:
        return Digest.parse(text)
    except ValueError as reason:
        raise error("DIGEST_INVALID", str(reason), {"digest": text[:256]}) from None


def check_reference(text: str) -> Digest | str:
    """Return the digest or the tag that ``text`` is. A colon tells them apart, since no tag has one."""
    return check_digest(text) if ":" in text else check_tag(text)
