"""Sets in the database: every activation is kept, and what is damaged is not used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlmodel import Session

from broker.db.engine import reading, writing
from broker.errors import Conflict, NotFound, PolicyInvalid
from broker.policy import active
from broker.policy.active import ActivePolicies
from broker.policy.shipped import PolicyFiles
from tests.databases import open_database
from tests.policy.world import shipped_files

OTHER = '@id("other") forbid (principal, action, resource);'


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty broker database."""
    opened = open_database(tmp_path, migrated=True)
    yield opened
    opened.dispose()


@contextmanager
def _written(engine: Engine) -> Iterator[Session]:
    with writing(engine) as connection, Session(connection) as session:
        yield session
        session.flush()


def checked(policy: str = "", cases: str = "[]") -> active.Checked:
    """A set with one policy, or with the shipped ones."""
    files = {"some.cedar": policy} if policy else shipped_files().files
    return active.check(PolicyFiles(shipped_files().schema, files, {"some.yaml": cases}))


def activated(session: Session, *sets: active.Checked) -> None:
    """Activates them one after the other."""
    before = None
    for revision, each in enumerate(sets, 1):
        assert active.activate(session, each, expected=before, by="ada", now=100.0 - revision) == revision
        before = each.policies.hash


def test_every_activation_is_kept(engine: Engine) -> None:
    """Cases that change alone replace nothing, a rollback is an activation like any, and the newest comes first."""
    first, other = checked(), checked(OTHER)
    with _written(engine) as session:
        activated(session, first, other, checked(cases="# more\n[]"), other)
    with reading(engine) as session:
        found = [(row.revision, row.hash) for row in active.versions(session)]
        assert found == [(n, [first, other][(n + 1) % 2].policies.hash) for n in (4, 3, 2, 1)]
        assert active.version(session, "1").source.cases == {"some.yaml": "[]"}
        newest = active.version(session, first.policies.hash)
        assert (newest.revision, newest.source.cases) == (3, {"some.yaml": "# more\n[]"})
        for name in ("5", "0" * 64, "9" * 64, "", "-1"):
            with pytest.raises(NotFound):
                active.version(session, name)
    policies = ActivePolicies(engine)
    assert policies.reload()
    assert (policies.revision, policies.current.hash) == (4, other.policies.hash)


def test_an_activation_that_another_overtook_is_refused(engine: Engine) -> None:
    """Nothing of it is kept."""
    with _written(engine) as session:
        activated(session, checked())
    for expected in (None, "0" * 64):
        with pytest.raises(Conflict), _written(engine) as session:
            active.activate(session, checked(OTHER), expected=expected, by="ada", now=1.0)
    with reading(engine) as session:
        assert len(active.versions(session)) == 1


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE policy_versions SET files = '{'", "no JSON"),
        ("UPDATE policy_versions SET cases = ''", "no JSON"),
        ("UPDATE policy_versions SET files = '[]'", "no texts"),
        ("UPDATE policy_versions SET files = '{\"a.cedar\": 1}'", "no texts"),
        ("UPDATE policy_versions SET vocabulary = vocabulary || ' '", "its hash is"),
        ("UPDATE policy_versions SET files = '{}'", "its hash is"),
        ("UPDATE policy_versions SET hash = 'x'", "its hash is"),
        ("UPDATE active_policy SET hash = 'x'", "its hash is"),
        ("DELETE FROM policy_versions", "it is missing"),
    ],
)
def test_a_damaged_set_is_not_used(engine: Engine, damage: str, complaint: str) -> None:
    """The broker does not start with it, and says what to do."""
    with _written(engine) as session:
        activated(session, checked())
    with writing(engine) as connection:
        connection.execute(text(damage))
    with pytest.raises(PolicyInvalid, match=f"activation 1 is damaged: .*{complaint}.*backup"):
        ActivePolicies(engine).reload()


async def test_one_set_is_checked_at_a_time() -> None:
    """Even if whoever asked for the first went away."""
    running, most, gate = 0, 0, threading.Event()

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gate.wait(10)
        running -= 1

    asked = [asyncio.create_task(active.one_at_a_time(work)) for _ in range(3)]
    await asyncio.sleep(0.05)
    asked[0].cancel()
    await asyncio.sleep(0.05)
    assert most == 1
    gate.set()
    await asyncio.gather(*asked[1:])
    assert most == 1


def test_policies_times_cases_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case is decided on the whole set."""
    monkeypatch.setattr(active, "MAX_DECISIONS", len(checked().policies.policies))
    case = (
        "- {name: n%s, request: {principal: 'A::\"a\"', action: a, resource: 'A::\"a\"'}, expect: deny, reasons: []}\n"
    )
    with pytest.raises(PolicyInvalid, match="2 cases on"):
        checked(cases=case % 1 + case % 2)
