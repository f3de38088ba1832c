"""What many records share, told once, so that a search by any of it is a few seeks, however large the log is.

Kind, owner, action, outcome, model and policies come in few combinations: each has a row in `traits`, and a record
names its row. A search reads the combinations, and then goes straight to the newest records of those that fit. All of
it is derived from the records and can be made again (`sort_in`); nothing that proves anything depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, inspect
from sqlmodel import Field, SQLModel

from broker.audit.stored_record import readable_groups
from broker.db.engine import BIG_INTEGER, execute, insert_rows, reading, select_in, writing

MAX_TRAITS = 10_000
"""Combinations with a model of their own. Agents choose the names of models that do not exist; from here on such a name
is looked for in the records themselves."""

ANY_MODEL = "*"
"""The model of combinations beyond `MAX_TRAITS`."""

MAX_HUMAN = 500
"""Characters of a human's name that are searched by: what an index takes on every database."""

SPAN = 1024
"""Records whose first and last moment stand in one row of `spans`."""

_COLUMNS = ("id", "kind", "owner", "action", "outcome", "model", "policies")
_BATCH = 1000
_NOTHING: Mapping[str, Any] = {}

Key = tuple[str, str, str, str, str, tuple[str, ...]]
"""Kind, owner, action, outcome, model, and the policies in order."""


class TraitsRow(SQLModel, table=True):
    """One combination. `policies` is a JSON list. A combination that stood here twice would do no harm."""

    __tablename__ = "traits"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    kind: str
    owner: str
    action: str
    outcome: str
    model: str
    policies: str


class SpanRow(SQLModel, table=True):
    """The earliest and the latest moment in the records [n · SPAN, (n + 1) · SPAN): clocks may jump, spans tell."""

    __tablename__ = "spans"

    n: int = Field(primary_key=True, sa_type=BIG_INTEGER, sa_column_kwargs={"autoincrement": False})
    first_at: float
    last_at: float


def key_of(kind: str, groups: Mapping[str, Mapping[str, Any]]) -> Key:
    """The combination of a record with these groups; a group that is absent says nothing."""
    what, decision = groups.get("what") or _NOTHING, groups.get("decision") or _NOTHING
    rules = (groups.get("posture") or _NOTHING).get("rules") or ()
    policies = decision.get("policies") or ()
    return (
        kind,
        str((groups.get("for_whom") or _NOTHING).get("owner", "")),
        str(what.get("action", "")),
        str(decision.get("outcome", "")),
        str(what.get("model", "")),
        tuple(policies) if not rules else (*policies, *(rule for rule in rules if rule not in policies)),
    )


def human_of(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Whom a record names beside its agent: the subject it acted for, or the operator who approved."""
    subject = (groups.get("for_whom") or _NOTHING).get("subject")
    return str(subject or (groups.get("remedy") or _NOTHING).get("approved_by") or "")[:MAX_HUMAN]


def stored(connection: Connection) -> dict[int, Key] | None:
    """Every combination by its number; None in a database of a version that had none."""
    if not inspect(connection).has_table("traits"):
        return None
    rows = execute(connection, f"SELECT {','.join(_COLUMNS)} FROM traits")  # noqa: S608  column names are constants here
    return {int(row[0]): (*row[1:6], tuple(orjson.loads(row[6]))) for row in rows}


def fits(key: Key | None, human: str, kind: str, groups: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a record is searched by what its groups say."""
    said = key_of(kind, groups)
    return human == human_of(groups) and key in (said, (*said[:4], ANY_MODEL, said[5]))


class Traits:
    """Which combination has which number: the memory of the one who writes, on the writer's thread alone."""

    def __init__(self) -> None:
        self._ids: dict[Key, int] = {}
        self._known = False

    def id_of(self, connection: Connection, key: Key) -> int:
        """The number of a combination, which is stored now if it is new."""
        found = self._ids.get(key)
        return found if found is not None else self._stored(connection, key)

    def forget(self) -> None:
        """Reads the table anew the next time: a transaction did not land."""
        self._ids.clear()
        self._known = False

    def _stored(self, connection: Connection, key: Key) -> int:
        if not self._known:
            self._ids = {key: id for id, key in (stored(connection) or {}).items()}
            self._known = True
        if key not in self._ids and len(self._ids) >= MAX_TRAITS:
            key = (*key[:4], ANY_MODEL, key[5])
        if key not in self._ids:
            id = int(execute(connection, "SELECT coalesce(max(id), 0) FROM traits").scalar_one()) + 1
            insert_rows(connection, "traits", _COLUMNS, [(id, *key[:5], orjson.dumps(key[5]).decode())])
            self._ids[key] = id
        return self._ids[key]


def note_spans(connection: Connection, old: int, new: int) -> None:
    """Writes the spans that became whole when the log grew from `old` to `new` records."""
    for n in range(old // SPAN, new // SPAN):
        _note_span(connection, n)


def sort_in(engine: Engine) -> int:
    """Makes what is missing here of the records that an older broker wrote; returns how many there were.

    A batch is one transaction, so a start that dies goes on the next time.
    """
    traits, sorted_in = Traits(), 0
    while True:
        with writing(engine) as connection:
            rows = execute(connection, "SELECT idx FROM records WHERE trait = 0 ORDER BY idx LIMIT ?", (_BATCH,)).all()
            for (idx,) in rows:
                _sort(connection, int(idx), traits)
        sorted_in += len(rows)
        if not rows:
            break
    with writing(engine) as connection:  # what was erased leaves combinations behind that no record has
        execute(connection, "DELETE FROM traits WHERE id NOT IN (SELECT trait FROM records WHERE trait = traits.id)")
    for n in _missing_spans(engine):
        with writing(engine) as connection:
            _note_span(connection, n)
    return sorted_in


def sort_again(connection: Connection, indices: Sequence[int]) -> bool:
    """Sorts records in by what they say now; for whoever erases a group, in the same transaction.

    Combinations that no record has any more are deleted. Returns whether there were any: then what whoever writes
    remembers of them is to be forgotten, before the next record is sorted in.
    """
    traits = Traits()
    before = {int(trait) for (trait,) in select_in(connection, "records", "trait", "idx", indices)}
    for index in indices:
        _sort(connection, index, traits)
    for n in {index // SPAN for index in indices}:
        execute(connection, "UPDATE spans SET first_at = ?, last_at = ? WHERE n = ?", (*_moments(connection, n), n))
    unused = "DELETE FROM traits WHERE id = ? AND NOT EXISTS (SELECT 1 FROM records WHERE trait = traits.id)"
    return sum(execute(connection, unused, (id,)).rowcount for id in sorted(before)) > 0


def _sort(connection: Connection, index: int, traits: Traits) -> None:
    kind, stored = execute(connection, "SELECT kind, groups FROM records WHERE idx = ?", (index,)).one()
    groups = {name: orjson.loads(content) for name, (_, content) in readable_groups(stored).items() if content}
    id = traits.id_of(connection, key_of(kind, groups))
    execute(connection, "UPDATE records SET trait = ?, human = ? WHERE idx = ?", (id, human_of(groups), index))


def _missing_spans(engine: Engine) -> Iterator[int]:
    with reading(engine) as session:
        connection = session.connection()
        last = execute(connection, "SELECT max(idx) FROM records").scalar()
        known = {int(n) for (n,) in execute(connection, "SELECT n FROM spans")}
    whole = 0 if last is None else (int(last) + 1) // SPAN
    yield from (n for n in range(whole) if n not in known)


def _note_span(connection: Connection, n: int) -> None:
    insert_rows(connection, "spans", ("n", "first_at", "last_at"), [(n, *_moments(connection, n))])


def _moments(connection: Connection, n: int) -> tuple[float, float]:
    first, last = execute(
        connection, "SELECT min(at), max(at) FROM records WHERE idx >= ? AND idx < ?", (n * SPAN, (n + 1) * SPAN)
    ).one()
    return first, last
