"""How every parser is judged: a value, or an error of our own tree whose text repeats no secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, settings

from broker.errors import BrokerError

T = TypeVar("T")

SECRET = "planted-5b1c9e"
"""Stands where a secret would; no error's text may show it."""


def effort(percent: int) -> settings:
    """A share of the examples that the profile asks for: slow parsers take fewer, in each profile alike."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    examples = max(1, settings.default.max_examples * percent // 100)  # type: ignore[union-attr]  # a profile is loaded
    return settings(max_examples=examples, suppress_health_check=slow)


def taken(read: Callable[[], T], *, quotes: bool = False) -> T | None:
    """What `read` gives, or None where it refuses. Every other end fails the test.

    Args:
        read: calls the parser.
        quotes: whether its errors name the place for an admin, in the words of the admin's own file.
    """
    try:
        return read()
    except BrokerError as error:
        refused = error
    assert str(refused) == refused.detail
    assert refused.detail
    assert quotes or SECRET not in refused.detail
    assert SECRET not in refused.reason
    return None


def holds(check: Callable[[], None]) -> bool:
    """Whether a check passes; like `taken`, where there is no value."""

    def passed() -> bool:
        check()
        return True

    return taken(passed) is True
