"""The figures' own arithmetic: percentiles, ratios, aims, the table and the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import results
from tests.bench.results import Better, Result


@pytest.mark.parametrize(("percent", "expected"), [(1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    """Of 1 to 100 in any order, p50 is 50 and p99 is 99: a value that was measured, never one between two."""
    assert results.percentile([*range(51, 101), *range(1, 51)], percent) == expected


def test_a_percentile_of_one_value_is_that_value() -> None:
    """No interpolation, no value left out."""
    assert results.percentile([7.0], 50) == results.percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 100.1)])
def test_a_percentile_of_nothing_is_refused(values: list[float], percent: float) -> None:
    """An empty round cannot pass for a fast one."""
    with pytest.raises(ValueError, match="percentile"):
        results.percentile(values, percent)


@pytest.mark.parametrize(
    ("better", "value", "met"),
    [("lower", 2.9, True), ("lower", 3.0, True), ("lower", 3.1, False), ("higher", 2.9, False), ("higher", 3.0, True)],
)
def test_an_aim_is_met_on_its_boundary(better: Better, value: float, met: bool) -> None:
    """At most or at least, as the figure is better lower or higher."""
    assert Result("a", value, "ms", better, aim=3.0).met is met


def test_without_a_floor_there_is_no_ratio_and_without_an_aim_nothing_to_meet() -> None:
    """Nothing is made up."""
    bare = Result("a", 1.0, "ms", "lower")
    assert (bare.ratio, bare.met) == (None, None)
    assert Result("a", 3.0, "ms", "lower", floor=2.0).ratio == 1.5


def test_the_file_has_the_promised_members(tmp_path: Path) -> None:
    """Machine, commit, and of each result seven members in their order, numbers as numbers and absent ones null."""
    found = [Result("exchange.cpu_ms", 0.51239, "ms", "lower", 0.1903, 0.666), Result("call.per_s", 1, "1/s", "higher")]
    results.write(tmp_path / "out.json", results.document(found, {"cores": 2}, "abc"))
    read = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert read["machine"] == {"cores": 2}
    assert read["commit"] == "abc"
    assert read["results"] == [
        {
            "name": "exchange.cpu_ms",
            "value": 0.5124,
            "unit": "ms",
            "floor": 0.1903,
            "ratio": 2.693,
            "aim": 0.666,
            "better": "lower",
        },
        {
            "name": "call.per_s",
            "value": 1,
            "unit": "1/s",
            "floor": None,
            "ratio": None,
            "aim": None,
            "better": "higher",
        },
    ]
    assert list(read["results"][0]) == ["name", "value", "unit", "floor", "ratio", "aim", "better"]


def test_a_figure_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    """JSON has no NaN; a reader would fail on it, and a file from before stays as it was."""
    (tmp_path / "out.json").write_text("before")
    with pytest.raises(ValueError, match="JSON"):
        results.write(tmp_path / "out.json", results.document([Result("a", float("nan"), "ms", "lower")], {}, ""))
    assert (tmp_path / "out.json").read_text() == "before"


def test_the_table_says_what_was_missed() -> None:
    """Every row has value, floor, ratio and aim, and one word on the aim."""
    lines = results.table(
        [
            Result("exchange.cpu_ms", 1.2, "ms", "lower", 0.2, 0.7),
            Result("call.per_s", 2500.0, "1/s", "higher", aim=2000.0),
        ]
    ).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["name", "value", "unit", "floor", "ratio", "aim", ""]
    assert cells[2] == ["exchange.cpu_ms", "1.20", "ms", "0.200", "6.00", "≤ 0.700", "MISSED"]
    assert cells[3] == ["call.per_s", "2,500", "1/s", "", "", "≥ 2,000", "met"]
