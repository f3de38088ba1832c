"""Reading is recorded: who was shown groups of records, by which question, and how many.

The record is durable before the answer is sent. One search leaves one record however many pages it takes: its answer
names the record, whoever asks for a further page names it again, and the pages go no further than the log went then.
Reading what everybody may read (checkpoints, tiles) leaves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlmodel import Session

from broker.audit.disclosure import Disclosure
from broker.audit.events import Event, Group, Kind
from broker.audit.inputs import Input
from broker.audit.log import AuditLog, RecordRow, Step
from broker.audit.search import Query
from broker.audit.stored_record import readable_groups
from broker.errors import InvalidRequest
from broker.formats.record import GROUPS

SEARCH_LIFE_S = 3600
"""How long after its record further pages of a search are given."""

ACTION = "readTrail"
"""What operators' policies call it."""


@dataclass(frozen=True, slots=True)
class Reader:
    """An operator who asks for records.

    Args:
        id: the principal's.
        roles: the operator's.
        source: where the request comes from.
        request_id: which request it is.
        decision: why the operator may, as a record's decision group tells it.
        inputs: what the decision names by digest.
        disclosure: what the operator is shown.
    """

    id: str
    roles: Sequence[str]
    source: str
    request_id: str
    decision: Group
    inputs: tuple[Input, ...]
    disclosure: Disclosure


async def note(
    audit: AuditLog,
    way: str,
    of: Group,
    *,
    query: Query | None,
    shown: int,
    following: int | None,
    reader: Reader,
    now: float,
) -> int:
    """Records one read, before its answer is sent; returns the record's index. Fails closed.

    Args:
        audit: the log.
        way: what was read: `search`, `record`, `bundle` …
        of: what was asked for: `{"index": …}` or `{"range": [start, end]}`.
        query: what a search, an export or a package was asked by. It names agents and people, as the group of who does.
        shown: how many records the answer shows; of an export, how many it shows at most.
        following: where further ones may be asked for under this record: behind this index; None for nowhere.
        reader: who reads.
        now: seconds since the epoch.

    Raises:
        Unavailable: it is not recorded, so nothing may be shown.
    """
    event = Event(
        Kind.TRAIL_READ,
        agent=reader.id,
        at=now,
        request_id=reader.request_id,
        who={"agent": reader.id, "roles": list(reader.roles)} | ({"query": query.described()} if query else {}),
        what={"action": ACTION, "way": way, **of},
        decision=reader.decision,
        request={
            "source": reader.source,
            "shown": shown,
            "next": following,
            "withheld": reader.disclosure.withheld,
        },
        inputs=reader.inputs,
    )
    return (await audit.record(Step((event,)))).indices[0]


def check_continues(session: Session, search: int, page: Query, *, reader: Reader, now: float) -> None:
    """Makes sure that a further page belongs to the search that the record `search` tells of.

    Raises:
        InvalidRequest: it is no search of this operator's, of another question, too long ago, one that withheld more
            than this page would, or one that does not say that it went on here.
    """
    row = session.get(RecordRow, search)
    if row is not None and row.kind == Kind.TRAIL_READ and row.agent == reader.id and now - row.at < SEARCH_LIFE_S:
        stored = readable_groups(row.groups)
        parts = (stored.get(name, ("", ""))[1] or "{}" for name in ("who", "what", "request"))
        who, what, request = map(orjson.loads, parts)
        told = set(request.get("withheld", GROUPS)) <= set(reader.disclosure.withheld)
        same = what.get("way") == "search" and who.get("query") == page.described()
        if told and same and _goes_on(request.get("next"), page):
            return
    raise InvalidRequest(
        f"Record {search} is no search of yours for this within the last hour. Leave `search` out to begin a new one."
    )


def _goes_on(following: object, page: Query) -> bool:
    """Whether a page begins where a search is recorded to go on, or further on in its order."""
    if type(following) is not int or page.after is None:
        return False
    return page.after >= following if page.oldest_first else page.after <= following
