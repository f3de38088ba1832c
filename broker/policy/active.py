"""The policy set in force, and the sets that were: stored whole, named by their hash, activated by compare-and-swap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import orjson
from sqlalchemy import Engine
from sqlmodel import Field, Session, SQLModel, col, select, update

from broker.db.engine import reading
from broker.errors import CasesFailed, Conflict, NotFound, PolicyInvalid
from broker.policy import cases as policy_cases
from broker.policy import own_entities
from broker.policy.engine import PolicySet, compile
from broker.policy.shipped import PolicyFiles
from broker.policy.source import SCHEMA_NAME


class PolicyVersionRow(SQLModel, table=True):
    """A set as one activation put it in force, its cases included. `files` and `cases` are JSON texts."""

    __tablename__ = "policy_versions"

    revision: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    hash: str = Field(index=True)
    vocabulary: str
    files: str
    cases: str
    activated_at: float
    activated_by: str


class ActivePolicyRow(SQLModel, table=True):
    """Which set is in force: one row. `revision` grows with every activation."""

    __tablename__ = "active_policy"

    id: int = Field(primary_key=True)
    hash: str
    revision: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A compiled set whose cases all passed. Only `check` builds one, and nothing else can be activated."""

    source: PolicyFiles
    policies: PolicySet
    cases_run: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The texts that one activation put in force."""

    revision: int
    hash: str
    source: PolicyFiles


MAX_DECISIONS = 5_000_000
"""Cases times policies of a set: some fifteen seconds."""
_MAX_DIGITS = 12
ResultT = TypeVar("ResultT")

_CHECKS = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy-check")


async def one_at_a_time(work: Callable[[], ResultT]) -> ResultT:
    """Does what checks a set off the loop, one after the other: large sets must not take all the time there is.

    A thread of its own, and no lock: the work of a request that was cancelled still ends before the next begins.
    """
    return await asyncio.get_running_loop().run_in_executor(_CHECKS, work)


def check(source: PolicyFiles) -> Checked:
    """Parses and validates a set, tries it on what the broker itself asks, and runs all its cases.

    Raises:
        PolicyInvalid: it does not parse or validate, or does not fit the broker; names file, line and policy.
        CasesFailed: names every case that failed, with what was expected and what came out.
    """
    policies = compile(source.schema, source.files)
    own_entities.check(policies)
    found = policy_cases.parse(source.cases)
    if len(found) * len(policies.policies) > MAX_DECISIONS:
        raise PolicyInvalid(
            f"{len(found)} cases on {len(policies.policies)} policies take too long: all pairs together may be "
            f"{MAX_DECISIONS}. Keep the cases that say most."
        )
    failed = [result for result in policy_cases.run(policies, found) if not result.passed]
    if failed:
        lines = "\n".join(f"{result.file}: {result.name}: {result.message}" for result in failed[:20])
        raise CasesFailed(f"{len(failed)} of {len(found)} cases fail, so the set was not activated:\n{lines}")
    return Checked(source, policies, len(found))


class ActivePolicies:
    """The set that decides now. Read on every request, replaced whole after an activation is durable.

    Args:
        engine: where sets are stored.

    Raises:
        PolicyInvalid: the stored set cannot be used; the broker does not start with it. Fails closed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.current: PolicySet
        self.source: PolicyFiles
        self.revision = 0

    def reload(self) -> bool:
        """Takes the stored set into use; False when none was ever activated.

        Raises:
            PolicyInvalid: what is stored is damaged, or is not the set that was activated.
        """
        with reading(self._engine) as session:
            active = session.get(ActivePolicyRow, 1)
            if active is None:
                return False
            row = session.get(PolicyVersionRow, active.revision)
            if row is None:
                raise _damaged(active.revision, "it is missing")
            source = _stored(row).source
        policies = compile(source.schema, source.files)
        if not policies.hash == row.hash == active.hash:
            raise _damaged(active.revision, f"its hash is {policies.hash}, and {active.hash} was activated")
        self.use(policies, source, active.revision)
        return True

    def use(self, policies: PolicySet, source: PolicyFiles, revision: int) -> None:
        """Takes a set into use that is durable already."""
        self.current, self.source, self.revision = policies, source, revision


def activate(session: Session, checked: Checked, *, expected: str | None, by: str, now: float) -> int:
    """Makes a checked set the one in force, if the one in force is still `expected` (None: none yet).

    Returns:
        The new revision.

    Raises:
        Conflict: another set was activated meanwhile.
    """
    hash = checked.policies.hash
    if expected is None and session.get(ActivePolicyRow, 1) is None:
        revision = 1
        session.add(ActivePolicyRow(id=1, hash=hash, revision=revision))
    else:
        swap = (
            update(ActivePolicyRow)
            .where(col(ActivePolicyRow.id) == 1, col(ActivePolicyRow.hash) == (expected or ""))
            .values(hash=hash, revision=col(ActivePolicyRow.revision) + 1)
            .returning(col(ActivePolicyRow.revision))
        )
        swapped = session.exec(swap).scalar_one_or_none()
        if swapped is None:
            raise Conflict("Another policy set was activated meanwhile. Look at it, and propose your change again.")
        revision = int(swapped)
    row = PolicyVersionRow(
        revision=revision,
        hash=hash,
        vocabulary=checked.source.schema,
        files=orjson.dumps(dict(checked.source.files)).decode(),
        cases=orjson.dumps(dict(checked.source.cases)).decode(),
        activated_at=now,
        activated_by=by,
    )
    session.add(row)
    session.flush()
    return revision


def version(session: Session, name: str) -> Stored:
    """A set that was activated once.

    Args:
        session: where sets are stored.
        name: its hash, for the newest activation with it, or the number of an activation.

    Raises:
        NotFound: there is no such set.
        PolicyInvalid: what is stored is damaged.
    """
    which = col(PolicyVersionRow.hash) == name
    if name.isdecimal() and len(name) <= _MAX_DIGITS:
        which = col(PolicyVersionRow.revision) == int(name)
    row = session.exec(select(PolicyVersionRow).where(which).order_by(col(PolicyVersionRow.revision).desc())).first()
    if row is None:
        raise NotFound(f"No policy set {name} was ever activated.")
    return _stored(row)


def texts(session: Session, hash: str) -> dict[str, str]:
    """The files of a set that was activated once, its vocabulary among them.

    Raises:
        NotFound: there is no such set.
    """
    source = version(session, hash).source
    return {SCHEMA_NAME: source.schema, **source.files}


def versions(session: Session) -> list[PolicyVersionRow]:
    """Every activation, newest first."""
    return list(session.exec(select(PolicyVersionRow).order_by(col(PolicyVersionRow.revision).desc())))


def _stored(row: PolicyVersionRow) -> Stored:
    try:
        files, cases = orjson.loads(row.files), orjson.loads(row.cases)
    except orjson.JSONDecodeError as error:
        raise _damaged(row.revision, f"it is no JSON: {error}") from error
    for texts in (files, cases):
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise _damaged(row.revision, "it holds no texts")
    return Stored(row.revision, row.hash, PolicyFiles(row.vocabulary, files, cases))


def _damaged(revision: int, why: str) -> PolicyInvalid:
    return PolicyInvalid(
        f"The stored policy set of activation {revision} is damaged: {why}. Restore the database from a backup, and "
        "look in the audit log for who activated what."
    )
