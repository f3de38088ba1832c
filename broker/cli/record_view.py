"""One record as a person reads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rich.text import Text

from broker.cli.output import plain, print_table, utc, words

COLUMNS = ("index", "time", "agent", "kind", "outcome", "what", "why")
WHOLE = ("index", "time", "kind", "outcome")
_OUTCOMES = {"permit": "green", "deny": "red"}
_NO_TIME = 253_402_300_800_000
"""The first millisecond that is of no year with four digits."""
_NAMED = 3
"""Of what a change is about, named in a line of a table."""
_TITLES = {"for_whom": "for whom"}


def row(record: Mapping[str, Any]) -> list[object]:
    """A record as a line of a table of `COLUMNS`."""
    groups = record["groups"]
    decision, remedy = groups.get("decision", {}), groups.get("remedy", {})
    outcome = words(decision.get("outcome"))
    return [
        record["index"],
        utc(record["at_ms"] / 1000, "seconds"),
        of(record),
        record["kind"],
        Text(plain(outcome), _OUTCOMES.get(outcome, "")),
        _what(groups.get("what", {}), remedy),
        decision.get("policies") or decision.get("reason") or remedy.get("reason") or remedy.get("why") or "",
    ]


def _what(what: Mapping[str, Any], remedy: Mapping[str, Any]) -> object:
    """What a record is about: a model, a resource, what was stopped or changed, or else the action's name."""
    if "section" in remedy:
        return f"{remedy['section']}/{remedy.get('name')}: {remedy.get('status')}"
    differences = remedy.get("differences")
    if isinstance(differences, list) and differences:
        names = [f"{each.get('section')}/{each.get('name')}" for each in differences if isinstance(each, dict)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more
    return what.get("model") or what.get("resource") or what.get("action") or ""


def of(record: Mapping[str, Any]) -> str:
    """Whose a record is, as far as the reader may know."""
    if record["agent"]:
        return str(record["agent"])
    return "(withheld)" if "who" in record["withheld"] else "(erased)" if "who" in record["erased"] else ""


def print_groups(
    groups: Mapping[str, Any],
    order: tuple[str, ...],
    withheld: Collection[str] = (),
    erased: Mapping[str, int] | None = None,
    missing: Collection[str] = (),
    *,
    absent: str = "not shown",
) -> None:
    """Prints a record's groups, one line a field.

    Args:
        groups: what is known, by group.
        order: every group there is; one that is neither known nor withheld is empty.
        withheld: groups that are not shown here.
        erased: groups that were erased, with the index of the record that says so.
        missing: groups that are gone and were not erased.
        absent: what to say of those that are withheld.
    """
    rows: list[tuple[object, object, object]] = []
    for name in order:
        title = Text(_TITLES.get(name, name), "bold")
        if name in withheld:
            rows.append((title, Text(absent, "yellow"), ""))
        if name in missing:
            rows.append((title, Text("MISSING, and no record of an erasure says so", "bold red"), ""))
        elif erased and name in erased:
            rows.append((title, Text(f"erased, as record {erased[name]} says", "yellow"), ""))
        for field, value in groups.get(name, {}).items():
            is_time = field == "at_ms" and isinstance(value, int) and 0 <= value < _NO_TIME
            shown = f"{value} ({utc(value / 1000)})" if is_time else value
            rows.append((title, field, shown))
            title = Text()
    print_table(("", "", ""), rows, empty="The record holds nothing else.")
