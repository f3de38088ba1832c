"""Whoever is shown groups of records is recorded first: a dependency of every route that shows any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from broker.audit import reads
from broker.audit.events import Group
from broker.audit.search import Query
from broker.errors import AccessDenied
from broker.identity.operators import Operator
from broker.tokens.operate import Admitted
from broker.web import asgi
from broker.web.api.access import Auditor, broker_of, request_id_of

T = TypeVar("T")


class Reading:
    """An auditor's request for records.

    Args:
        operator: who asks, admitted for `readTrail`.
        request: the request.

    Attributes:
        by: the operator, as records tell it.
        disclosure: what this operator is shown of every record.
    """

    def __init__(self, operator: Operator, request: Request) -> None:
        self._broker = broker_of(request)
        self._presented = asgi.presented(request.scope)
        source = asgi.source(request.scope, self._broker.settings.server.trusted_proxy)
        self._admitted: Admitted = request.state.admitted
        decided = self._admitted.decided
        self.disclosure = self._broker.operators.disclosure(operator)
        self.by = reads.Reader(
            operator.id, operator.roles, source, request_id_of(request), decided.told, decided.inputs, self.disclosure
        )

    async def note(
        self, way: str, of: Group | None = None, *, query: Query | None = None, shown: int, following: int | None = None
    ) -> int:
        """Records what the answer is about to show; returns the record's index. See `broker.audit.reads.note`.

        Raises:
            Unavailable: it is not recorded, so nothing may be shown.
        """
        now = self._broker.clock.now()
        return await reads.note(
            self._broker.audit, way, of or {}, query=query, shown=shown, following=following, reader=self.by, now=now
        )

    async def check_still(self) -> None:
        """Makes sure that the operator may go on with an answer that takes long. See `OperatorGate.admit_still`.

        Raises:
            InvalidToken: the token has ended.
            AccessDenied: the operator may not read the trail any more, or is shown less of it; recorded.
        """
        by, gate = self.by, self._broker.operators
        operator = await gate.admit_still(self._presented, reads.ACTION, source=by.source, request_id=by.request_id)
        lost = self.disclosure.groups - gate.disclosure(operator).groups
        if lost:
            await self._withhold(min(lost))
            raise AccessDenied("The policies withhold more from you than when this began. Begin it anew.")

    async def check_asked(self, query: Query) -> None:
        """Makes sure that a query looks into no group that is withheld: its answer would tell what that says.

        Raises:
            AccessDenied: it does; recorded.
        """
        found = self.disclosure.withholds(query)
        if found is not None:
            name, group = found
            await self._withhold(group)
            raise AccessDenied(
                f"The policies withhold {group} of all records from you, so you cannot ask by {name!r}. Leave it out, "
                "or ask an admin for `readGroup` on that group."
            )

    async def _withhold(self, group: str) -> None:
        by, gate = self.by, self._broker.operators
        await gate.withhold(self._admitted, group, self._presented, source=by.source, request_id=by.request_id)

    async def read(self, query: Callable[[Any], T]) -> T:
        """Runs a query for the next part of an answer that takes long, if the operator may go on: see `check_still`."""
        await self.check_still()
        return await self._broker.read(query)

    async def check_continues(self, search: int, page: Query) -> None:
        """Makes sure that a further page belongs to a search of this operator's. See `broker.audit.reads`.

        Raises:
            InvalidRequest: it does not.
        """
        now = self._broker.clock.now()
        await self._broker.read(lambda session: reads.check_continues(session, search, page, reader=self.by, now=now))


async def _reading(operator: Auditor, request: Request) -> Reading:
    return Reading(operator, request)


TheReading = Annotated[Reading, Depends(_reading)]
