"""The replay memory by itself: once, or with one value; to the end of its time; bounded, and closed when full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.db.claims import Claim
from broker.errors import Unavailable
from broker.tokens.replay import MARGIN_S, ReplayMemory, proof_claim


def test_a_claim_without_a_value_is_taken_once() -> None:
    """Once and never again, until it ends; the end itself is free again."""
    memory = ReplayMemory()
    wish = Claim("k", "", 100)
    assert [memory.claim(wish, now) for now in (0, 0, 50, 99.999)] == [True, False, False, False]
    assert memory.claim(Claim("k", "", 200), 100)


def test_a_claim_with_a_value_is_taken_by_that_value() -> None:
    """The same value may come again, another one may not, and none may not either."""
    memory = ReplayMemory()
    assert memory.claim(Claim("k", "a", 100), 0)
    assert memory.claim(Claim("k", "a", 100), 1)
    assert not memory.claim(Claim("k", "b", 100), 1)
    assert not memory.claim(Claim("k", "", 100), 1)


def test_what_was_claimed_once_takes_no_value_later() -> None:
    """A claim without a value is not reopened by one that has a value."""
    memory = ReplayMemory()
    assert memory.claim(Claim("k", "", 100), 0)
    assert not memory.claim(Claim("k", "a", 100), 0)


def test_a_restarted_memory_begins_with_what_was_stored() -> None:
    """What is given at the start is in force, with its own end."""
    memory = ReplayMemory([Claim("a", "", 100), Claim("b", "x", 200)])
    assert not memory.claim(Claim("a", "", 100), 99)
    assert not memory.claim(Claim("b", "y", 200), 199)
    assert memory.claim(Claim("a", "", 300), 100)


def test_a_full_memory_refuses() -> None:
    """Fails closed: what cannot be remembered is not let through; ended claims make room."""
    memory = ReplayMemory(capacity=2)
    assert memory.claim(Claim("a", "", 10), 0)
    assert memory.claim(Claim("b", "x", 20), 0)
    with pytest.raises(Unavailable):
        memory.claim(Claim("c", "", 30), 9)
    assert memory.claim(Claim("b", "x", 20), 9)
    assert memory.claim(Claim("c", "", 30), 10)
    assert len(memory) == 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20), st.integers(0, 5)), max_size=60))
def test_memory_is_bounded_by_what_is_in_force(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is claimed in whatever order, nothing is taken twice in its time, and nothing stays after it."""
    memory, held, now = ReplayMemory(), dict[str, float](), 0
    for key, lifetime, pause in steps:
        now += pause
        held = {name: end for name, end in held.items() if end > now}
        assert memory.claim(Claim(key, "", now + lifetime), now) is (key not in held)
        held.setdefault(key, now + lifetime)
        assert len(memory) == len(held)


def test_a_proofs_claim_outlives_its_window() -> None:
    """From the earliest to the latest second at which a proof is accepted, its claim is in force (RFC 9449 §11.1)."""
    window_s, future_s, iat = 60, 5, 1_000_000
    claim = proof_claim("jkt", "jti", iat=iat, window_s=window_s)
    memory = ReplayMemory()
    assert memory.claim(claim, iat - future_s)
    for now in range(iat - future_s, iat + window_s + MARGIN_S):
        assert not memory.claim(claim, now)
    assert MARGIN_S > 0


def test_proofs_of_two_keys_are_two_claims() -> None:
    """Neither thumbprint nor `jti` can be chosen so that two proofs share a claim: a thumbprint has no colon."""
    keys = {proof_claim(jkt, jti, iat=0, window_s=60).key for jkt, jti in (("a", "b"), ("b", "a"), ("a", "b:c"))}
    assert len(keys) == 3
