"""Moments as a person writes them on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import typer

_AGO = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def is_age(text: str) -> bool:
    """Whether a time is written as an age, which is another moment whenever it is read."""
    return _AGO.fullmatch(text) is not None


def moment(text: str) -> str:
    """Milliseconds since the epoch of what a person writes for a time; UTC where no zone is written."""
    from broker.clock import SystemClock

    ago = _AGO.fullmatch(text)
    if ago is not None:
        return str(int((SystemClock().now() - int(ago[1]) * _SECONDS[ago[2]]) * 1000))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write 2026-11-23T09:30 (UTC) or 90m, 24h, 7d ago") from None
    return str(int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
