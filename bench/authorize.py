"""How a client gets to the Authorization field that it then sends with each request: what docker login does."""

from __future__ import annotations

import base64
import http.client
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from bench.errors import CannotMeasure
from bench.running import get
from bench.server import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.running import Reply

PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def authorization(port: int, user: str | None, password: str) -> str | None:
    """The field for pulls from and pushes to `REPOSITORY`; None where nothing is asked for. Raises CannotMeasure."""
    basic = "" if user is None else "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    status, headers, _ = _get(port, "/v2/", {})
    if status == 200:
        return None
    challenge = headers.get("WWW-Authenticate") or ""
    if not basic:
        raise CannotMeasure(f"port {port} wants a login: {challenge}")
    if not challenge.lower().startswith("bearer "):
        return basic
    asked = dict(PARAMETER.findall(challenge))
    realm = urlsplit(asked.get("realm", ""))
    if realm.port != port:
        raise CannotMeasure(f"port {port} sends elsewhere for a token: {challenge}")
    scope = quote(f"repository:{REPOSITORY}:pull,push")
    service = quote(asked.get("service", ""))
    status, _, content = _get(port, f"{realm.path}?service={service}&scope={scope}", {"Authorization": basic})
    if status != 200:
        raise CannotMeasure(f"port {port} gives no token: {status} {content.decode(errors='replace')[:500]}")
    answer = json.loads(content)
    return f"Bearer {answer.get('token') or answer['access_token']}"


def _get(port: int, target: str, headers: Mapping[str, str]) -> Reply:
    try:
        return get(port, target, headers)
    except (OSError, http.client.HTTPException) as reason:
        raise CannotMeasure(f"port {port} does not answer {target}: {reason!r}") from None
