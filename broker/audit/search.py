"""Which records a query asks for: found by seeks in few indexes, newest first, whatever is combined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import orjson
from sqlalchemy import Connection
from sqlmodel import Session

from broker.audit.events import Kind
from broker.audit.traits import ANY_MODEL, MAX_HUMAN, SPAN
from broker.db.engine import execute
from broker.errors import InvalidRequest

MAX_PAGE = 500
MAX_TEXT = 1_000
"""Characters of what is asked by: it stands in the record of the search."""
MAX_INDEX = 2**63 - 1
OPERATOR = "operator:"
"""What an operator's principal id begins with."""

_SEEKS_A_STATEMENT = 100
_OF_A_PAGE = frozenset({"after", "limit"})


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for; an empty field means any. `after` is the last index of the page before (keyset paging).

    Newest first unless `oldest_first`. Times are milliseconds since the epoch, `until` exclusive. `human` is an
    operator's name, the subject that an agent's evidence named, or who approved. `policy` is a policy or an enrolment
    rule that determined the decision. Only indices below `below` are looked at.
    """

    agent: str = ""
    kind: str = ""
    outcome: str = ""
    model: str = ""
    request_id: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    after: int | None = None
    limit: int = 50
    oldest_first: bool = False
    owner: str = ""
    human: str = ""
    action: str = ""
    policy: str = ""
    below: int | None = None

    def __post_init__(self) -> None:
        for name, default in _DEFAULTS.items():
            if isinstance(default, str) and len(getattr(self, name)) > MAX_TEXT:
                raise InvalidRequest(f"{name!r} is longer than the {MAX_TEXT} characters that one can ask by.")

    def described(self) -> dict[str, object]:
        """What it asks for, without what is of one page, as records and saved queries tell it."""
        told = asdict(self)
        return {name: told[name] for name, default in _DEFAULTS.items() if told[name] != default}


_DEFAULTS: Mapping[str, object] = {
    field.name: field.default for field in fields(Query) if field.name not in {*_OF_A_PAGE, "below"}
}


def described_query(members: Mapping[str, object]) -> Query:
    """The query that `Query.described` told.

    Raises:
        InvalidRequest: a member is none of a query's, or of another type.
    """
    for name, value in members.items():
        default = _DEFAULTS.get(name, _DEFAULTS)
        wanted = int if default is None else type(default)
        if default is _DEFAULTS or type(value) is not wanted:
            raise InvalidRequest(f"{name[:40]!r} is no member of a query, or of another type.")
    if members.get("kind", "") not in {"", *Kind}:
        raise InvalidRequest(f"There is no kind of record {members['kind']!r:.60}.")
    return Query(**members)  # type: ignore[arg-type]  # the loop above held each type


@dataclass(frozen=True, slots=True)
class _Seek:
    """Records that stand together in one index, in the order of their own."""

    where: str
    values: tuple[object, ...]


def indices(session: Session, query: Query) -> list[int]:
    """The indices of one page of records that fit."""
    connection = session.connection()
    limit = min(max(query.limit, 1), MAX_PAGE)
    low, high = bounds(connection, query)
    rest, values = _rest(query)
    found: list[int] = []
    seeks = list(_seeks(connection, query))
    for start in range(0, len(seeks), _SEEKS_A_STATEMENT):
        parts: list[str] = []
        parameters: list[object] = []
        for seek in seeks[start : start + _SEEKS_A_STATEMENT]:
            order = "ASC" if query.oldest_first else "DESC"
            parts.append(
                f"SELECT idx FROM (SELECT idx FROM records WHERE {seek.where} AND idx >= ? AND idx < ?{rest} "  # noqa: S608  clauses are constants here, values are bound
                f"ORDER BY idx {order} LIMIT ?) AS found"
            )
            parameters += [*seek.values, low, high, *values, limit]
        rows = execute(connection, " UNION ALL ".join(parts), parameters)
        found = sorted({*found, *(int(idx) for (idx,) in rows)}, reverse=not query.oldest_first)[:limit]
        if len(found) == limit:  # no other seek needs to look behind these
            low, high = (low, found[-1]) if query.oldest_first else (found[-1], high)
    return found


def bounds(connection: Connection, query: Query) -> tuple[int, int]:
    """The range of indices outside of which no record fits."""
    low, high = 0, MAX_INDEX if query.below is None else query.below
    if query.after is not None:
        low, high = (query.after + 1, high) if query.oldest_first else (low, min(query.after, high))
    if query.since_ms is not None or query.until_ms is not None:
        since = float("-inf") if query.since_ms is None else query.since_ms / 1000
        until = float("inf") if query.until_ms is None else query.until_ms / 1000
        spans = [
            (int(n), first, last) for n, first, last in execute(connection, "SELECT n, first_at, last_at FROM spans")
        ]
        whole = max((n for n, _, _ in spans), default=-1) + 1
        first, last = execute(connection, "SELECT min(at), max(at) FROM records WHERE idx >= ?", (whole * SPAN,)).one()
        if first is not None:
            spans.append((whole, first, last))
        fit = [n for n, first, last in spans if last >= since and first < until]
        if not fit:
            return 0, 0
        low = max(low, min(fit) * SPAN)
        high = min(high, (max(fit) + 1) * SPAN)
    return low, high


def _rest(query: Query) -> tuple[str, tuple[object, ...]]:
    """What is asked of each record that a seek comes by, beside what it is sought by."""
    asked = (
        ("at >= ?", None if query.since_ms is None else query.since_ms / 1000),
        ("at < ?", None if query.until_ms is None else query.until_ms / 1000),
        ("model = ?", query.model or None),
        ("agent = ?", query.agent or None if query.human or query.request_id else None),
    )
    given = [(text, value) for text, value in asked if value is not None]
    return "".join(f" AND {text}" for text, _ in given), tuple(value for _, value in given)


def _seeks(connection: Connection, query: Query) -> Iterator[_Seek]:
    """Where to look: few places, each of them in order."""
    wanted = _traits(connection, query)
    if query.request_id:
        yield from _of_request(query, wanted)
        return
    if not query.agent and not query.human:
        if wanted is None:
            yield _Seek("idx >= 0", ())
        else:
            yield from (_Seek("trait = ?", (trait,)) for trait in wanted)
        return
    for column, value in _names(query):
        who = f"{column} = ?" + (" AND human <> ''" if column == "human" else "")
        known = _traits_of(connection, who, value)
        fit = known if wanted is None else sorted(known & set(wanted))
        yield from (_Seek(f"{who} AND trait = ?", (value, trait)) for trait in fit)


def _names(query: Query) -> Sequence[tuple[str, str]]:
    """Who a record must be of, as pairs of a column and its value."""
    if not query.human:
        return (("agent", query.agent),)
    human = ("human", query.human[:MAX_HUMAN])
    operator = ("agent", OPERATOR + query.human)
    if not query.agent:
        return (operator, human)
    return (operator,) if query.agent == operator[1] else (human,)


def _of_request(query: Query, wanted: Sequence[int] | None) -> Iterator[_Seek]:
    """One request leaves few records, so all of them are looked at."""
    who, values = "request_id = ?", [query.request_id]
    if query.human:
        who += " AND (agent = ? OR human = ?)"
        values += [OPERATOR + query.human, query.human[:MAX_HUMAN]]
    if wanted is None:
        yield _Seek(who, tuple(values))
    else:
        yield from (_Seek(f"{who} AND trait = ?", (*values, trait)) for trait in wanted)


def _traits(connection: Connection, query: Query) -> list[int] | None:
    """The combinations that fit; None if every one does."""
    asked = (
        ("kind", query.kind), ("owner", query.owner), ("action", query.action), ("outcome", query.outcome),
    )  # fmt: skip
    given = [(f"{column} = ?", value) for column, value in asked if value]
    if query.model:
        given.append((f"(model = ? OR model = '{ANY_MODEL}')", query.model))
    if not given and not query.policy:
        return None
    where = " AND ".join(text for text, _ in given) or "id > 0"
    statement = f"SELECT id, policies FROM traits WHERE {where}"  # noqa: S608  clauses are constants here, values are bound
    rows = execute(connection, statement, [value for _, value in given])
    return [int(id) for id, policies in rows if not query.policy or query.policy in orjson.loads(policies)]


def _traits_of(connection: Connection, who: str, value: str) -> set[int]:
    """The combinations that records of one name have: from each to the next by a seek."""
    statement = f"""
        WITH RECURSIVE seen(trait) AS (
            SELECT min(trait) FROM records WHERE {who}
            UNION ALL
            SELECT (SELECT min(trait) FROM records WHERE {who} AND trait > seen.trait) FROM seen
            WHERE seen.trait IS NOT NULL
        ) SELECT trait FROM seen WHERE trait IS NOT NULL
    """  # noqa: S608  clauses are constants here, values are bound
    return {int(trait) for (trait,) in execute(connection, statement, (value, value))}
