"""One thing that was looked at: how it is, what was found, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "not asked"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of what `broker doctor` shows.

    Args:
        name: what was looked at, always the same for the same thing.
        status: "fail" where the broker cannot do its work or is not safe; "warn" where it soon may not.
        found: what was found; never a secret.
        advice: what to do about it; empty if nothing.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def worse(value: float, *, warn: float, fail: float) -> Status:
    """A measure by two limits: above `fail`, above `warn`, or neither."""
    return "fail" if value > fail else "warn" if value > warn else "ok"
