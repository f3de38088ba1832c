"""Durable claims: single use, bound values, batches by position, the moment of their end, and restarts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from broker.db.claims import Claim, prune, take, unexpired
from broker.db.engine import reading, writing
from broker.errors import Unavailable
from broker.tokens.replay import MARGIN_S, ReplayMemory, proof_claim
from tests.databases import open_database

END = 1_000.0


def _claim(key: str, value: str = "", expires_at: float = END) -> Claim:
    return Claim(key, value, expires_at)


def _take(engine: Engine, *wishes: list[Claim]) -> list[str | None]:
    with writing(engine) as connection:
        return take(connection, wishes)


def _keys(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return [str(row[0]) for row in session.connection().exec_driver_sql("SELECT key FROM claims ORDER BY key")]


def test_what_is_used_once_is_never_used_again(engine: Engine) -> None:
    """A key without a value is taken by the first and refused to everybody after, in later transactions too."""
    assert _take(engine, [_claim("a")]) == [None]
    assert _take(engine, [_claim("a")]) == ["a"]
    assert _take(engine, [_claim("a", "with a value")]) == ["a"]


def test_evidence_stays_with_its_first_key(engine: Engine) -> None:
    """A key with a value may come again with the same value, and is refused with another, or without one."""
    assert _take(engine, [_claim("a", "mine")]) == [None]
    assert _take(engine, [_claim("a", "mine")], [_claim("a", "theirs")], [_claim("a")]) == [None, "a", "a"]


def test_within_one_batch_the_first_wins(engine: Engine) -> None:
    """Duplicates in one transaction lose to the first by position, and every caller gets its own answer."""
    wishes = [[_claim("a")], [_claim("b")], [_claim("a")], [], [_claim("b")], [_claim("c")]]
    assert _take(engine, *wishes) == [None, None, "a", None, "b", None]
    assert _keys(engine) == ["a", "b", "c"]


def test_within_one_batch_a_value_is_bound_by_the_first(engine: Engine) -> None:
    """Of two callers who bind the same evidence in one transaction to different keys the first one has it."""
    assert _take(engine, [_claim("a", "one")], [_claim("a", "two")], [_claim("a", "one")]) == [None, "a", None]


def test_a_caller_takes_all_its_claims_or_none(engine: Engine) -> None:
    """A caller who loses one key leaves its other keys free for those behind it."""
    assert _take(engine, [_claim("a")]) == [None]
    assert _take(engine, [_claim("b"), _claim("a")], [_claim("b")]) == ["a", None]
    assert _keys(engine) == ["a", "b"]


def test_nothing_is_taken_by_a_transaction_that_failed(engine: Engine) -> None:
    """A rolled back claim is free."""

    def fail() -> None:
        with writing(engine) as connection:
            assert take(connection, [[_claim("a")]]) == [None]
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert _take(engine, [_claim("a")]) == [None]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(
            st.builds(Claim, st.sampled_from("abcd"), st.sampled_from(["", "", "x", "y"]), st.just(END)),
            max_size=3,
            unique_by=lambda claim: claim.key,
        ),
        max_size=12,
    ),
    st.integers(1, 12),
)
def test_a_batch_means_the_same_as_one_after_the_other(engine: Engine, wishes: list[list[Claim]], size: int) -> None:
    """However callers fall into transactions, the same ones win and the same keys are taken."""
    batches = [wishes[start : start + size] for start in range(0, len(wishes), size)]
    together = [result for batch in batches for result in _take(engine, *batch)]
    taken = unexpired(engine, 0)
    prune(engine, END)
    assert [_take(engine, wish)[0] for wish in wishes] == together
    assert unexpired(engine, 0) == taken
    prune(engine, END)


def test_a_claim_ends_at_its_end(engine: Engine) -> None:
    """In force until just before `expires_at`, gone at it: in the table, after a restart, and when rows are deleted."""
    _take(engine, [_claim("a")])
    assert unexpired(engine, END - 0.001) == [_claim("a")]
    assert unexpired(engine, END) == []
    assert prune(engine, END - 0.001) == 0
    assert prune(engine, END) == 1
    assert _take(engine, [_claim("a")]) == [None]


def test_pruning_takes_a_few_at_a_time(engine: Engine) -> None:
    """However many have ended, one transaction deletes a bounded number, and none that is in force."""
    _take(engine, [_claim(f"{number:05}", "", float(number)) for number in range(5_000)])
    counts = []
    while count := prune(engine, 4_500.0):
        counts.append(count)
    assert counts == [2_000, 2_000, 501]
    assert _keys(engine) == [f"{number:05}" for number in range(4_501, 5_000)]


def test_memory_after_a_restart_holds_what_was_durable(tmp_path: Path, engine: Engine) -> None:
    """A process that starts anew refuses what was used before it, and lets evidence come again for its own key only."""
    _take(engine, [_claim("proof"), _claim("evidence", "mine"), _claim("ended", "", 500.0)])
    engine.dispose()
    again = open_database(tmp_path)
    memory = ReplayMemory(unexpired(again, 600.0))
    assert len(memory) == 2
    assert not memory.claim(_claim("proof"), 600.0)
    assert not memory.claim(_claim("evidence", "theirs"), 600.0)
    assert memory.claim(_claim("evidence", "mine"), 600.0)
    assert memory.claim(_claim("ended"), 600.0)
    assert not memory.claim(_claim("proof"), END - 0.001)
    assert memory.claim(_claim("proof"), END)
    again.dispose()


@pytest.mark.parametrize("offset", [-60, 0, 5])
def test_a_proof_is_remembered_longer_than_it_is_accepted(offset: int) -> None:
    """A proof is accepted up to the window after its `iat`; whenever it came, its claim is in force beyond that."""
    memory, iat, window = ReplayMemory(), 10_000, 60
    claim = proof_claim("thumbprint", "jti", iat=iat, window_s=window)
    assert memory.claim(claim, float(iat - offset))
    assert not memory.claim(claim, iat + window + MARGIN_S - 0.001)
    assert claim.expires_at > iat + window


def test_a_full_memory_refuses() -> None:
    """Memory is bounded: while it is full a new claim is refused and a known one still known; ended ones make room."""
    memory = ReplayMemory([_claim("a"), _claim("b", "mine")], capacity=2)
    with pytest.raises(Unavailable):
        memory.claim(_claim("c"), 0)
    assert not memory.claim(_claim("a"), 0)
    assert memory.claim(_claim("b", "mine"), 0)
    assert memory.claim(_claim("c", "", END + 1), END)
    assert len(memory) == 1


def test_a_race_has_one_winner(engine: Engine) -> None:
    """Of many threads that take the same key at the same time exactly one gets it."""
    results: list[str | None] = []
    start = threading.Barrier(8)

    def race() -> None:
        start.wait()
        results.extend(_take(engine, [_claim("a")]))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results.count(None), results.count("a")) == (1, 7)


def test_a_claim_with_its_moment_is_the_same_claim_after_a_restart(engine: Engine) -> None:
    """It is refused in the table, and comes back to the memory under the key that the memory knows."""
    claim = Claim("proof:a:b", "", END, 1_800_000_000)
    assert _take(engine, [claim]) == [None]
    assert _take(engine, [claim]) == ["proof:a:b"]
    assert unexpired(engine, END - 1) == [claim]
    memory = ReplayMemory(unexpired(engine, END - 1))
    assert not memory.claim(Claim("proof:a:b", "", END, 1_800_000_001), END - 1)


def test_keys_of_one_time_lie_together(engine: Engine) -> None:
    """Whatever their names, so that a commit touches few pages of the index."""
    _take(engine, *[[Claim(name, "", END, moment)] for name, moment in (("z", 16), ("a", 17), ("m", 16), ("b", 17))])
    assert _keys(engine) == ["@10 m", "@10 z", "@11 a", "@11 b"]
