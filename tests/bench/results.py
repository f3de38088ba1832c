"""What was measured: one result a name, the table for people and the file for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

Better = Literal["lower", "higher"]

FILE = Path("bench-results.json")
PROFILE = Path("bench-profile.md")
"""Where `make bench` leaves what it found."""


@dataclass(frozen=True, slots=True)
class Result:
    """One figure.

    Args:
        name: as `docs/performance.md` lists it.
        value, unit: the figure; the median of the rounds.
        better: which way is good.
        floor: what the bare work alone costs, in the same unit and run; None where none makes sense.
        aim: the value to be reached, in the same unit; None when there is none.
    """

    name: str
    value: float
    unit: str
    better: Better
    floor: float | None = None
    aim: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value over floor."""
        return None if not self.floor else self.value / self.floor

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without one."""
        if self.aim is None:
            return None
        return self.value <= self.aim if self.better == "lower" else self.value >= self.aim


def rounded(value: float | None) -> float | None:
    """Four significant digits: more would pretend."""
    if value is None or value == 0 or not math.isfinite(value):
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed (nearest rank).

    Raises:
        ValueError: there are no values, or `percent` is not in (0, 100].
    """
    if not values or not 0 < percent <= 100:
        raise ValueError("a percentile needs values and a percent above 0, at most 100")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median of rounds with the least and the greatest, for progress lines."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(results: Sequence[Result]) -> str:
    """The results in Markdown, one row each."""
    rows = [("name", "value", "unit", "floor", "ratio", "aim", "")]
    for result in results:
        met = {None: "", True: "met", False: "MISSED"}[result.met]
        sign = "≤ " if result.better == "lower" else "≥ "
        aim = "" if result.aim is None else sign + _shown(result.aim)
        ratio = "" if result.ratio is None else f"{result.ratio:.2f}"
        rows.append((result.name, _shown(result.value), result.unit, _shown(result.floor), ratio, aim, met))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    return "\n".join([lines[0], f"| {' | '.join('-' * width for width in widths)} |", *lines[1:]])


def document(results: Sequence[Result], machine: dict[str, object], commit: str) -> dict[str, object]:
    """The whole of `bench-results.json`."""
    return {
        "machine": machine,
        "commit": commit,
        "results": [
            {
                "name": result.name,
                "value": rounded(result.value),
                "unit": result.unit,
                "floor": rounded(result.floor),
                "ratio": rounded(result.ratio),
                "aim": rounded(result.aim),
                "better": result.better,
            }
            for result in results
        ],
    }


def parse(read: Mapping[str, Any]) -> list[Result]:
    """The results of such a file."""
    members = ("name", "value", "unit", "better", "floor", "aim")
    return [Result(**{member: each[member] for member in members}) for each in read["results"]]


def write(path: Path, written: dict[str, object]) -> None:
    """Writes the file, whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(written, indent=2, allow_nan=False) + "\n", "utf-8")
    new.replace(path)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    digits = max(0, 3 - math.floor(math.log10(abs(value))) - 1) if value else 0
    return f"{value:,.{digits}f}"
