"""Replay memory and the durable claims under it, against the plainest model, in any order of events."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.db import claims
from broker.db.claims import Claim
from broker.db.engine import writing
from broker.errors import Unavailable
from broker.tokens.replay import ReplayMemory
from tests.fakes import FakeClock
from tests.fuzz.databases import Stored, steps

CAPACITY = 4
KEYS = st.sampled_from("abcdef")
VALUES = st.sampled_from(["", "", "mine", "theirs"])
LIVES = st.sampled_from([0.0, 0.5, 1.0, 5.0, 60.0])
TIMES = st.sampled_from([0.0, 0.5, 1.0, 4.0, 59.5, 60.0])


class Memory(RuleBasedStateMachine):
    """The memory by itself, full and not: a dictionary of what is in force says what must happen."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.memory = ReplayMemory(capacity=CAPACITY)
        self.held: dict[str, Claim] = {}

    def _end(self) -> None:
        now = self.clock.now()
        self.held = {key: claim for key, claim in self.held.items() if claim.expires_at > now}

    @rule(key=KEYS, value=VALUES, life=LIVES)
    def claim(self, key: str, value: str, life: float) -> None:
        """A claim passes when it is free, or bound to the same value; a full memory takes nothing new."""
        wish = Claim(key, value, self.clock.now() + life)
        self._end()
        held = self.held.get(key)
        if held is None and len(self.held) >= CAPACITY:
            try:
                self.memory.claim(wish, self.clock.now())
            except Unavailable:
                return
            raise AssertionError("a full memory took a claim")
        taken = self.memory.claim(wish, self.clock.now())
        assert taken is (held is None or (value != "" and value == held.value))
        self.held.setdefault(key, wish)

    @rule(seconds=TIMES)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule(seconds=TIMES)
    def turn_back(self, seconds: float) -> None:
        """The wall clock goes back: what was in force stays so, and what was forgotten does not come back."""
        self._end()
        self.memory.claim(next(iter(self.held.values()), Claim("?", "", 0.0)), self.clock.now())
        self.clock.jump(-seconds)

    @rule()
    def restart(self) -> None:
        """A memory that begins with what is in force goes on as the one before."""
        self._end()
        self.memory = ReplayMemory(self.held.values(), capacity=CAPACITY)

    @invariant()
    def bounded(self) -> None:
        """It never holds more than it may."""
        assert len(self.memory) <= CAPACITY


class Table(Stored):
    """Memory and table together as a broker uses them, with batches, restarts and pruning between."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.memory = ReplayMemory()
        self.rows: dict[str, Claim] = {}
        self.spent: dict[str, float] = {}

    @rule(
        wishes=st.lists(
            st.lists(st.tuples(KEYS, VALUES, LIVES), max_size=3, unique_by=lambda wish: wish[0]), max_size=5
        )
    )
    def take(self, wishes: Sequence[Sequence[tuple[str, str, float]]]) -> None:
        """One transaction of many callers: each wins or loses as a whole, by position."""
        now = self.clock.now()
        batch = [[Claim(key, value, now + life) for key, value, life in wish] for wish in wishes]
        expected: list[str | None] = []
        for wish in batch:
            lost = [c.key for c in wish if c.key in self.rows and not (c.value and c.value == self.rows[c.key].value)]
            expected.append(lost[0] if lost else None)
            for claim in () if lost else wish:
                self.rows.setdefault(claim.key, claim)
        with writing(self.engine) as connection:
            assert claims.take(connection, batch) == expected

    @rule(key=KEYS, life=LIVES)
    def use(self, key: str, life: float) -> None:
        """A proof, as the broker uses it: through the memory, then durable; never twice within its life."""
        now = self.clock.now()
        wish = Claim(f"proof:{key}", "", now + life)
        if not self.memory.claim(wish, now):
            assert self.spent[wish.key] > now
            return
        with writing(self.engine) as connection:
            if claims.take(connection, [[wish]]) == [None]:
                assert self.spent.get(wish.key, now) <= now
                self.spent[wish.key] = wish.expires_at
                self.rows[wish.key] = wish
            else:
                assert wish.key in self.rows  # ended, and not yet pruned

    @rule(seconds=TIMES)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        """What is in force is what the memory of the next process begins with."""
        self.reopen()
        now = self.clock.now()
        found = claims.unexpired(self.engine, now)
        assert {claim.key: claim for claim in found} == {k: c for k, c in self.rows.items() if c.expires_at > now}
        assert len(found) == len({claim.key for claim in found})
        self.memory = ReplayMemory(found)

    @rule()
    def prune(self) -> None:
        """Only what has ended goes, and all of it."""
        now = self.clock.now()
        ended = {key for key, claim in self.rows.items() if claim.expires_at <= now}
        assert claims.prune(self.engine, now) == len(ended)
        self.rows = {key: claim for key, claim in self.rows.items() if key not in ended}

    @precondition(lambda self: bool(self.spent))
    @rule()
    def try_everything_again(self) -> None:
        """No proof in its life passes a second time."""
        now = self.clock.now()
        for key, end in self.spent.items():
            if end > now:
                assert not self.memory.claim(Claim(key, "", now + 1), now)


TestMemory = Memory.TestCase
TestMemory.settings = steps(60, 40)
TestTable = Table.TestCase
TestTable.settings = steps(12, 25)
