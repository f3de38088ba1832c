"""Who may use a route: a dependency that every route of the API names with its action."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from broker.assembly import Broker
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
        request.state.operator = await broker.operators.admit(
            asgi.presented(request.scope),
            self.action,
            source=asgi.source(request.scope, broker.settings.server.trusted_proxy),
            request_id=request_id_of(request),
        )
        operator: Operator = request.state.operator
        return operator


TheBroker = Annotated[Broker, Depends(broker_of)]
RequestId = Annotated[str, Depends(request_id_of)]
Reader = Annotated[Operator, Depends(Allowed("read"))]
Auditor = Annotated[Operator, Depends(Allowed("readTrail"))]
Proposer = Annotated[Operator, Depends(Allowed("propose"))]
Approver = Annotated[Operator, Depends(Allowed("approve"))]
Container = Annotated[Operator, Depends(Allowed("contain"))]
