"""Docker and OCI: the table of routes, and how this format refuses.

The handlers are in the modules beside this one, by what they serve: `oci_uploads`, `oci_blobs`, `oci_manifests`,
`oci_lists`. Every right, link, tag and scope goes by the image's whole name; its first component is the repository.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from enseada.auth.policy import CATALOG, Action, image
from enseada.formats import docker_token
from enseada.formats.oci_blobs import BlobHandlers
from enseada.formats.oci_common import reply
from enseada.formats.oci_content import ManifestContents
from enseada.formats.oci_lists import ListHandlers
from enseada.formats.oci_manifests import ManifestHandlers
from enseada.formats.oci_uploads import UploadHandlers
from enseada.http import RegistryError
from enseada.protocols.oci import errors, names, scopes
from enseada.router import Call, Route, Table

if TYPE_CHECKING:
    from enseada.auth.policy import Authorizer, Decision, Subject
    from enseada.formats.docker_token import TokenEndpoint
    from enseada.formats.oci_common import OCIStores
    from enseada.http import BodyError, Request, Response
    from enseada.router import Params, RouteHandler

# What a client asks for that wants to do it: who pushes looks first at what is there.
_SCOPE_ACTIONS = {
    Action.READ: (scopes.PULL,),
    Action.WRITE: (scopes.PULL, scopes.PUSH),
    Action.DELETE: (scopes.DELETE,),
}


class OCI:
    """The format (`enseada.router.Format`)."""

    prefix = "/v2"

    def __init__(
        self,
        stores: OCIStores,
        authorizer: Authorizer,
        tokens: TokenEndpoint,
    ) -> None:
        self._tokens = tokens
        uploads = UploadHandlers(stores, authorizer)
        blobs = BlobHandlers(stores)
        contents = ManifestContents(stores)
        manifests = ManifestHandlers(stores, authorizer, contents)
        lists = ListHandlers(stores, authorizer, contents)

        async def token_route(request: Request, params: Params, subject: Subject) -> Response:
            return await tokens.token(request)

        def route(methods: str, folder: str, last: str, handler: RouteHandler, action: Action) -> list[Route]:
            compiled = re.compile(f"/(?P<name>.+)/{folder}/{last}")
            segment = folder.rpartition("/")[2]
            return [
                Route(method, compiled, handler, action, image("{name}"), next_to_last=segment)
                for method in methods.split()
            ]

        anywhere = re.compile("/?")
        catalog = re.compile("/_catalog")
        endpoint = re.compile(re.escape(docker_token.PATH.removeprefix(self.prefix)))
        self._table = Table(
            [
                Route("GET", anywhere, self._ping),
                Route("HEAD", anywhere, self._ping),
                Route("GET", endpoint, token_route, open=True),
                Route("POST", endpoint, token_route, open=True),
                Route("GET", catalog, lists.catalog, Action.READ, CATALOG),
                *route("GET HEAD", "manifests", "(?P<reference>[^/]+)", manifests.get, Action.READ),
                *route("PUT", "manifests", "(?P<reference>[^/]+)", manifests.put, Action.WRITE),
                *route("DELETE", "manifests", "(?P<reference>[^/]+)", manifests.delete, Action.DELETE),
                *route("POST", "blobs/uploads", "", uploads.begin, Action.WRITE),
                *route("POST", "blobs", "uploads", uploads.begin, Action.WRITE),
                *route("PATCH", "blobs/uploads", "(?P<upload>[^/]+)", uploads.append, Action.WRITE),
                *route("PUT", "blobs/uploads", "(?P<upload>[^/]+)", uploads.finish, Action.WRITE),
                *route("GET", "blobs/uploads", "(?P<upload>[^/]+)", uploads.status, Action.WRITE),
                *route("DELETE", "blobs/uploads", "(?P<upload>[^/]+)", uploads.cancel, Action.WRITE),
                *route("GET HEAD", "blobs", "(?P<digest>[^/]+)", blobs.get, Action.READ),
                *route("DELETE", "blobs", "(?P<digest>[^/]+)", blobs.delete, Action.DELETE),
                *route("GET", "tags", "list", lists.tags, Action.READ),
                *route("GET", "referrers", "(?P<digest>[^/]+)", lists.referrers, Action.READ),
            ]
        )

    def route(self, request: Request) -> Call:
        """Find the route; what it names is decoded and checked, so that a right is asked for on a real name."""
        call = self._table.find(request.method, request.path[len(self.prefix) :])
        params = {key: unquote(value) for key, value in call.params.items()}
        if "name" in params:
            names.check_name(params["name"])
        return Call(call.route, params)

    def deny(self, request: Request, call: Call | None, subject: Subject, decision: Decision) -> RegistryError:
        """401 with a challenge where other credentials or a wider token may help, else 403.

        A token that lacks a scope which its subject could have gets the 401: clients then ask for a wider one.
        """
        accesses = [] if call is None else _accesses(request, call)
        detail = [{"type": each.type, "name": each.name, "actions": each.sorted_actions()} for each in accesses]
        if subject.kind == "anonymous" or decision.scope_missing:
            failure = "insufficient_scope" if subject.scopes is not None else None
            header = ("WWW-Authenticate", self._tokens.challenge(request, accesses, failure))
            return errors.error("UNAUTHORIZED", decision.reason, detail, headers=[header])
        return errors.error("DENIED", decision.reason, detail)

    def broken(self, failure: BodyError, status: int) -> RegistryError:
        """SIZE_INVALID: the content is not what the head of its request announced."""
        return errors.error("SIZE_INVALID", str(failure), status=status)

    def refuse(self, request: Request, failure: RegistryError) -> Response:
        """The specification's JSON; a 401 always carries a challenge."""
        response = reply(failure.status, failure.headers, errors.render(failure), "application/json")
        if failure.status == 401 and "www-authenticate" not in response.headers:
            # The credentials are wrong. A token that has expired is renewed for the scopes that are named here.
            shown = request.headers.get("authorization") or ""
            invalid = "invalid_token" if shown.lower().startswith("bearer ") else None
            try:
                accesses = _accesses(request, self.route(request))
            except RegistryError:  # what is wrong with it otherwise is told to those who are known
                accesses = []
            response.headers.add("WWW-Authenticate", self._tokens.challenge(request, accesses, invalid))
        return response

    async def _ping(self, request: Request, params: Params, subject: Subject) -> Response:
        """Whether this is a registry, and whether the credentials are good (distribution-spec, end-1).

        The anonymous get a challenge even where they may read everything: clients learn only here how to log in, and
        those without credentials ask for an anonymous token and go on.
        """
        if subject.kind == "anonymous" and subject.scopes is None:
            header = ("WWW-Authenticate", self._tokens.challenge(request, []))
            raise errors.error("UNAUTHORIZED", headers=[header])
        return reply(200, (), b"{}", "application/json")


def _accesses(request: Request, call: Call) -> list[scopes.Access]:
    """The scopes of a token with which the request would be let through."""
    action = call.route.action
    if action is None:
        return []
    name = call.params.get("name")
    if name is None:
        return [scopes.catalog()]
    accesses = [scopes.repository(name, *_SCOPE_ACTIONS[action])]
    source = request.param("from") if request.param("mount") is not None else None
    if source is not None and names.is_name(source) and source != name:
        accesses.append(scopes.repository(source, scopes.PULL))
    return accesses
