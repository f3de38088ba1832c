"""Instances in memory and in their table, against a dictionary, in any order of events."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from sqlmodel import Session

from broker.db.engine import reading, writing
from broker.identity.instances import Instance, Instances, store
from tests.fakes import FakeClock
from tests.fuzz.databases import Stored, steps

AGENTS = st.sampled_from(["nightly", "weekly"])
PRINTS = st.sampled_from("xyz")
LIVES = st.sampled_from([30.0, 300.0, 600.0, 3600.0])
TIMES = st.sampled_from([0.0, 1.0, 300.0, 1800.0, 2100.0, 7200.0])


class Copies(Stored):
    """Running copies that renew, end, and are found again after a restart."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.instances = Instances(self.engine)
        self.live: dict[tuple[str, str], Instance] = {}
        self.needed: dict[tuple[str, str], float] = {}

    @rule(agent=AGENTS, thumbprint=PRINTS, life=LIVES)
    def issue(self, agent: str, thumbprint: str, life: float) -> None:
        """A credential: what is stored outlives it, and is written only when what was stored does not."""
        now, key = self.clock.now(), (agent, thumbprint)
        known = self.instances.find(agent, thumbprint)
        assert known == self.live.get(key)
        instance = known or Instance(f"{agent}-{thumbprint}", agent, thumbprint, "platform", now, now)
        longer = self.instances.extended(instance, now + life)
        self.needed[key] = max(self.needed.get(key, 0.0), now + life)
        if longer is None:
            assert known is not None
            assert known.ends_at >= now + life
            return
        assert longer.ends_at > now + life
        assert (longer.id, longer.agent, longer.thumbprint, longer.first_seen) == (
            instance.id, agent, thumbprint, instance.first_seen
        )  # fmt: skip
        with writing(self.engine) as connection, Session(connection) as session:
            store(session, longer)
            session.flush()
        self.instances.remember(longer)
        self.live[key] = longer

    @rule(seconds=TIMES)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule()
    def forget(self) -> None:
        """What has ended leaves the memory and then the table, and nothing else does."""
        now = self.clock.now()
        ended = {key for key, instance in self.live.items() if instance.ends_at <= now}
        assert self.instances.forget(now) == len(ended)
        self.instances.prune(now)
        self.live = {key: instance for key, instance in self.live.items() if key not in ended}
        with reading(self.engine) as session:
            count = session.connection().exec_driver_sql("SELECT count(*) FROM instances").scalar()
        assert count == len(self.live)

    @rule()
    def restart(self) -> None:
        """The next process finds the same instances."""
        self.reopen()
        self.instances = Instances(self.engine)

    @invariant()
    def as_the_dictionary_says(self) -> None:
        """Each is found by agent and key, and listed with its agent alone."""
        assert len(self.instances) == len(self.live)
        for (agent, thumbprint), instance in self.live.items():
            assert self.instances.find(agent, thumbprint) == instance
            assert instance in self.instances.of(agent)
        for agent in ("nightly", "weekly"):
            assert len(self.instances.of(agent)) == sum(found == agent for found, _ in self.live)

    @invariant()
    def no_credential_outlives_its_instance(self) -> None:
        """Whoever holds a credential that is good now is among the live ones."""
        now = self.clock.now()
        assert {key for key, end in self.needed.items() if end > now} <= set(self.live)


TestCopies = Copies.TestCase
TestCopies.settings = steps(15, 25)
