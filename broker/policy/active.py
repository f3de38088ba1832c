"""The policy set in force, and the sets that were: stored whole, named by their hash, activated by compare-and-swap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from sqlalchemy import Engine
from sqlmodel import Field, Session, SQLModel, col, select, update

from broker.db.engine import reading
from broker.errors import CasesFailed, Conflict, NotFound
from broker.policy import cases as policy_cases
from broker.policy.engine import PolicySet, compile
from broker.policy.shipped import PolicyFiles


class PolicyVersionRow(SQLModel, table=True):
    """A set that was activated at least once. `files` and `cases` are JSON texts."""

    __tablename__ = "policy_versions"

    hash: str = Field(primary_key=True)
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


def check(source: PolicyFiles) -> Checked:
    """Parses and validates a set and runs all its cases.

    Raises:
        PolicyInvalid: it does not parse or validate; names file, line and policy.
        CasesFailed: names every case that failed, with what was expected and what came out.
    """
    policies = compile(source.schema, source.files)
    found = policy_cases.parse(source.cases)
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
        """Takes the stored set into use; False when none was ever activated."""
        with reading(self._engine) as session:
            active = session.get(ActivePolicyRow, 1)
            if active is None:
                return False
            source = version(session, active.hash)
        self.use(compile(source.schema, source.files), source, active.revision)
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
    row = session.get(PolicyVersionRow, checked.policies.hash)
    if row is None:
        row = PolicyVersionRow(
            hash=checked.policies.hash, vocabulary="", files="", cases="", activated_at=now, activated_by=by
        )
    row.vocabulary = checked.source.schema
    row.files = orjson.dumps(dict(checked.source.files)).decode()
    row.cases = orjson.dumps(dict(checked.source.cases)).decode()
    session.add(row)
    active = session.get(ActivePolicyRow, 1)
    if active is None and expected is None:
        session.add(ActivePolicyRow(id=1, hash=row.hash, revision=1))
        session.flush()
        return 1
    swap = (
        update(ActivePolicyRow)
        .where(col(ActivePolicyRow.id) == 1, col(ActivePolicyRow.hash) == (expected or ""))
        .values(hash=row.hash, revision=col(ActivePolicyRow.revision) + 1)
        .returning(col(ActivePolicyRow.revision))
    )
    revision = session.exec(swap).scalar_one_or_none()
    if revision is None:
        raise Conflict("Another policy set was activated meanwhile. Look at it, and propose your change again.")
    return int(revision)


def version(session: Session, hash: str) -> PolicyFiles:
    """The texts of a set that was activated once.

    Raises:
        NotFound: there is no such set.
    """
    row = session.get(PolicyVersionRow, hash)
    if row is None:
        raise NotFound(f"No policy set {hash} was ever activated.")
    files: Mapping[str, str] = orjson.loads(row.files)
    return PolicyFiles(row.vocabulary, files, orjson.loads(row.cases))


def versions(session: Session) -> list[PolicyVersionRow]:
    """Every set that was activated, newest first."""
    return list(session.exec(select(PolicyVersionRow).order_by(col(PolicyVersionRow.activated_at).desc())))
