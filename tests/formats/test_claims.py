"""Times, texts and audiences of any token."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import Malformed, VerificationFailed
from broker.formats import claims
from tests.formats.forge import NOW


def reason(members: dict[str, Any], **settings: Any) -> str:
    """Why `check_times` refuses, or "" if it does not."""
    arguments = {"now": NOW, "leeway_s": 0, "require": (), **settings}
    try:
        claims.check_times(members, **arguments)
    except (Malformed, VerificationFailed) as error:
        return error.reason
    return ""


@pytest.mark.parametrize("leeway_s", [0, 30])
@pytest.mark.parametrize(("past_exp_s", "expected"), [(-1, ""), (-0.001, ""), (0, "expired"), (1, "expired")])
def test_a_token_is_dead_at_exp(leeway_s: int, past_exp_s: float, expected: str) -> None:
    """RFC 7519 §4.1.4: alive just before `exp`, dead at that very second; leeway only moves the second."""
    assert reason({"exp": NOW}, now=NOW + leeway_s + past_exp_s, leeway_s=leeway_s) == expected


@pytest.mark.parametrize("leeway_s", [0, 30])
@pytest.mark.parametrize(("after_s", "expected"), [(-1, "not_yet_valid"), (0, ""), (1, "")])
def test_a_token_lives_from_nbf(leeway_s: int, after_s: int, expected: str) -> None:
    """RFC 7519 §4.1.5: not before `nbf`, and from that second on."""
    assert reason({"nbf": NOW}, now=NOW - leeway_s + after_s, leeway_s=leeway_s) == expected


@pytest.mark.parametrize("leeway_s", [0, 30])
@pytest.mark.parametrize(("ahead_s", "expected"), [(-1, ""), (0, ""), (1, "issued_in_future")])
def test_a_token_from_the_future_is_refused(leeway_s: int, ahead_s: int, expected: str) -> None:
    """`iat` may be ahead of us by the leeway and no more."""
    assert reason({"iat": NOW + leeway_s + ahead_s}, leeway_s=leeway_s) == expected


@pytest.mark.parametrize(("age_s", "expected"), [(59, ""), (60, ""), (61, "too_old")])
def test_age_is_bounded(age_s: int, expected: str) -> None:
    """A token of exactly `max_age_s` passes; leeway does not lengthen it."""
    assert reason({"iat": NOW - age_s}, max_age_s=60, leeway_s=30) == expected


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_a_required_time_must_be_there(name: str) -> None:
    """SPIRE 1.12.3 took a token without `exp`: whichever is required, its absence is a refusal."""
    complete = {"exp": NOW + 60, "nbf": NOW, "iat": NOW}
    assert reason(complete, require=("exp", "nbf", "iat")) == ""
    del complete[name]
    assert reason(complete, require=("exp", "nbf", "iat")) == "claim_missing"


def test_exp_is_required_unless_said_otherwise() -> None:
    """The default asks for `exp`."""
    with pytest.raises(Malformed):
        claims.check_times({"iat": NOW}, now=NOW, leeway_s=0)


def test_a_bounded_age_needs_iat() -> None:
    """Without `iat` nobody knows the age, so it is refused."""
    assert reason({}, max_age_s=60) == "claim_missing"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        "1800000000",
        [NOW],
        {},
        float("nan"),
        float("inf"),
        -float("inf"),
        -1,
        253_402_300_800,
        10**400,
    ],
)
def test_what_is_not_a_time_is_refused(name: str, value: object) -> None:
    """Text, booleans, NaN, infinities, times before 1970 and after 9999 are no NumericDate, required or not."""
    assert reason({name: value}, now=1) == "claim_missing"


def test_fractions_of_a_second_count() -> None:
    """RFC 7519 §2 allows fractions; they are not rounded away."""
    assert reason({"exp": NOW + 0.5}, now=NOW + 0.4) == ""
    assert reason({"exp": NOW + 0.5}, now=NOW + 0.5) == "expired"


@pytest.mark.parametrize("value", [None, 1, "", ["a"], "a\x00", "a\nb", "a\u202eb", "a" * 1025])
def test_text_is_printable_and_bounded(value: object) -> None:
    """Missing, empty, other types, control characters and over-long values are refused."""
    with pytest.raises(Malformed):
        claims.text({"sub": value}, "sub")
    with pytest.raises(Malformed):
        claims.text({}, "sub")
    assert claims.text({"sub": "a" * 1024}, "sub") == "a" * 1024
    assert claims.text({"sub": "repo:a/b ü"}, "sub") == "repo:a/b ü"


@pytest.mark.parametrize("value", [None, 1, "", [], [1], ["a", ""], ["a", None], {"a": 1}, ["a"] * 65])
def test_an_audience_is_text(value: object) -> None:
    """Missing, empty, too many or not text: nobody is meant by it."""
    with pytest.raises(Malformed):
        claims.audiences({"aud": value})
    with pytest.raises(Malformed):
        claims.audiences({})


def test_one_audience_or_several() -> None:
    """RFC 7519 §4.1.3: a text, or an array of texts."""
    assert claims.audiences({"aud": "a"}) == ("a",)
    assert claims.audiences({"aud": ["a", "b"]}) == ("a", "b")
