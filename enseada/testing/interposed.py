"""What stands between the connections and the registry under test: it counts, records, and lets faults happen.

One rule: where no fault is due, a request and its answer pass as they are.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, cast

from enseada.http import BodyError
from enseada.testing.acts import Scene
from enseada.testing.rules import operation_of
from enseada.wire import refusal

if TYPE_CHECKING:
    from enseada.app import Application
    from enseada.http import RegistryError, Request, Response
    from enseada.requestbody import RequestBody
    from enseada.testing.faults import Fault, Faults
    from enseada.testing.records import Records
    from enseada.transport import Transport

_transport: ContextVar[Transport] = ContextVar("enseada.testing.transport")


def remember_transport(transport: Transport) -> Transport:
    """Let the handler of the same task find the connection's transport, when it is to be cut."""
    _transport.set(transport)
    return transport


class Interposed:
    """An `enseada.http.Handler` around a registry."""

    def __init__(self, registry: Application, faults: Faults, records: Records) -> None:
        self.defects: list[Exception] = []
        """What was raised and should not have been: it is a test's to fail for."""
        self._registry = registry
        self._faults = faults
        self._records = records

    async def __call__(self, request: Request) -> Response:
        """Answer a request, or let happen to it what the test has ordered."""
        self._records.begin(request)
        body = cast("RequestBody", request.body)
        proceed = partial(self._registry, request)
        for fault in reversed(self._faults.due(request.method, request.path)):
            scene = Scene(
                request=request,
                operation=operation_of(request.path),
                body=body,
                transport=_transport.get(),
                refusal=partial(self._refusal, request),
                happens=partial(self._happens, request, fault),
            )
            proceed = partial(fault.act, scene, proceed)
        try:
            response = await proceed()
        except Exception as error:
            if not _is_of_the_client(error):
                self.defects.append(error)
            raise
        self._records.change(request.id, status=response.status)
        return response

    def _refusal(self, request: Request, failure: RegistryError) -> Response:
        return self._registry.refuse(request, failure) or refusal(failure)

    def _happens(self, request: Request, fault: Fault) -> bool:
        if not fault.fire():
            return False
        self._records.add_fault(request.id, str(fault.act))
        return True


def _is_of_the_client(error: Exception) -> bool:
    """Whether it tells of a client that has gone, alone or several times over."""
    if isinstance(error, ExceptionGroup):
        return error.split(BodyError)[1] is None
    return isinstance(error, BodyError)
