"""Packages of a maker who says what they like, and could sign it; and what the verifier says of them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from broker.audit import package as packages
from broker.audit.disclosure import WHOLE
from broker.audit.events import Event, Kind
from broker.audit.log import Step
from broker.audit.package import Scope
from broker.audit.tree import AuditTree
from broker.audit.verifier import verify
from broker.db.engine import reading, writing
from broker.formats.note import NoteSigner
from broker.policy.decided import cut
from broker.policy.request import Entity
from tests.audit.logs import AT, SEALS, event, open_log, signed_by
from tests.audit.packages import take_away, unpacked

SIGNER = NoteSigner("broker.example/log", Ed25519PrivateKey.generate())
SET = {"schema.cedarschema": "entity A;\n", "a.cedar": ""}
SET_HASH = "3b" * 32
ALICE = cut(("Agent", "alice"), ("Broker", "this"), [Entity(("Agent", "alice")), Entity(("Broker", "this"))])


def of(agent: str = "alice", **groups: Any) -> Event:
    return event(agent, **{"who": {"agent": agent}, "request": {"source": "s"}, **groups})


def erasure_of(records: list[list[int]], *groups: str, kind: Kind = Kind.RECORDS_ERASED) -> tuple[Event, ...]:
    """The record of an erasure of `posture`, and of what follows it."""
    return (of("operator:eve", kind=kind, remedy={"groups": ["posture", *groups], "records": records}),)


def decision_with(**members: Any) -> dict[str, Any]:
    return {"outcome": "permit", "action": "call", "set": SET_HASH, "entities": ALICE.digest, **members}


def package_of(
    engine: Engine, folder: Path, *events: Event, scope: Scope | None = None, kind_taken: Kind | None = None
) -> Path:
    """The package of a log of these events, of a maker who says what they like.

    Of records of the kind `kind_taken`, the group `posture` is taken away before it is written.
    """
    log = open_log(engine, folder)
    asyncio.run(_record(log, events))
    tag = log.tag(scope.agent) if scope and scope.agent else ""
    log.close()
    if kind_taken:
        with writing(engine) as connection:
            take_away(connection, "posture", kind_taken)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    with reading(engine) as session:
        begun = packages.begin(session, tree, scope or Scope(), tag, WHOLE, now=AT)
    data = b"".join(packages.written(begun, engine, tree, lambda _session, _hash: SET))
    return unpacked(data, folder / "package")


async def _record(log: Any, events: tuple[Event, ...]) -> None:
    for each in events:
        await log.record(Step((each,)))


def verifier_says(package: Path, key: str = SIGNER.vkey) -> tuple[int, list[str]]:
    """The exit code of the verifier, run in this process for there are many, and its lines."""
    with redirect_stdout(StringIO()) as out:
        code = verify.main([str(package), "--key", key])
    return code, out.getvalue().splitlines()


def check_named(package: Path, key: str, told: str, *members: object) -> None:
    """The verifier's one problem names the file and the member."""
    code, lines = verifier_says(package, key)
    assert (code, lines[0]) == (1, "NOT PROVED: 1 problem(s)"), lines
    assert lines[1].strip().startswith(told), lines
    for member in members:
        assert str(member) in lines[1], lines
    assert "cannot be read" not in lines[1], lines


@dataclass(frozen=True)
class Whole:
    """A package with every kind of file in it."""

    folder: Path
    home: Path


GONE = object()


def alterations(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every place of a JSON value with what is wrong there: another type, out of bounds, a member more or less."""
    wrong: Mapping[type, list[Any]] = {
        str: [5, None, True, [], {}, "\ud800"],
        int: ["1", -1, 2**63, 10**400, 1.5, True, []],
        list: [{}, "x", 5, None],
        dict: [[], "x", 5, None],
        type(None): ["1", -1, 1.5, True, []],
    }
    for each in wrong[type(value)]:
        yield path, each
    if isinstance(value, list) and value:
        yield from alterations(value[0], (*path, 0))
    if isinstance(value, dict):
        yield (*path, "more"), 1
        for name, each in value.items():
            if path[-1:] != ("groups",):
                yield (*path, name), GONE
            yield from alterations(each, (*path, name))


def altered_at(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    made = copy.deepcopy(value)
    place = made
    for step in path[:-1]:
        place = place[step]
    if new is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return made
