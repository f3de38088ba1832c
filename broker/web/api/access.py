"""Who may use a route: a dependency that every route of the API names with its action."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from broker.assembly import Broker
from broker.errors import InvalidRequest
from broker.identity.operators import Operator
from broker.web import asgi


def broker_of(request: Request) -> Broker:
    """The broker that answers this request."""
    found: Broker = request.app.state.broker
    return found


def request_id_of(request: Request) -> str:
    """The id that this request leaves in records."""
    found: str = request.state.request_id
    return found


class Allowed:
    """Admits operators whom `operators.cedar` lets do `action`. Fails closed."""

    def __init__(self, action: str) -> None:
        self.action = action

    async def __call__(self, request: Request) -> Operator:
        """The operator; any refusal is raised before the route runs."""
        broker = broker_of(request)
        admitted = await broker.operators.admit(
            asgi.presented(request.scope),
            self.action,
            source=asgi.source(request.scope, broker.settings.server.trusted_proxy),
            request_id=request_id_of(request),
        )
        request.state.operator, request.state.admitted = admitted.operator, admitted
        _check_query(request)
        return admitted.operator


def _check_query(request: Request) -> None:
    """Refuses parameters that the route does not know, or given twice: a misspelt filter would show everything.

    Raises:
        InvalidRequest: names the parameter.
    """
    route = request.scope.get("route")
    known = set(_parameters(route.dependant)) if isinstance(route, APIRoute) else set()
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known or name in seen:
            told = (
                "was given twice"
                if name in seen
                else f"is not known here; known are {', '.join(sorted(known)) or 'none'}"
            )
            raise InvalidRequest(f"The parameter {name[:40]!r} {told}.")
        seen.add(name)


def _parameters(dependant: Dependant) -> Iterator[str]:
    """The query parameters of a route and of what it depends on."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for each in dependant.dependencies:
        yield from _parameters(each)


TheBroker = Annotated[Broker, Depends(broker_of)]
RequestId = Annotated[str, Depends(request_id_of)]
Reader = Annotated[Operator, Depends(Allowed("read"))]
Auditor = Annotated[Operator, Depends(Allowed("readTrail"))]
Proposer = Annotated[Operator, Depends(Allowed("propose"))]
Approver = Annotated[Operator, Depends(Allowed("approve"))]
Container = Annotated[Operator, Depends(Allowed("contain"))]
Eraser = Annotated[Operator, Depends(Allowed("erase"))]
