"""What a change comes to, in numbers and a few words: shown before it is proposed and before it is approved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from broker.changes.plan import Difference, Plan

_ONE = {
    "attesters": "attester",
    "endpoints": "endpoint",
    "agents": "agent",
    "operators": "operator",
    "policies": "policy file",
    "cases": "case file",
}


@dataclass(frozen=True, slots=True)
class Reach:
    """The sum of a change.

    Args:
        new, changed, removed: how many things of each.
        widens: what is not only taken away from, each with how; by the same rule that asks for a second person.
        cases: how many cases ran, and passed, on the policy set to come; 0 where policies stay.
        case_files: the files that hold them.
        waits_for: who could approve it, one of whom must; empty where one person is enough.
    """

    new: int = 0
    changed: int = 0
    removed: int = 0
    widens: tuple[str, ...] = ()
    cases: int = 0
    case_files: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()


def of(differences: Sequence[Difference], plan: Plan | None = None, others: Collection[str] = ()) -> Reach:
    """The reach of these differences.

    Args:
        differences: what changes.
        plan: their plan, if cases were run.
        others: who beside the proposer may approve.
    """
    new = sum(difference.before is None for difference in differences)
    removed = sum(difference.after is None for difference in differences)
    widens = tuple(
        f"{_ONE.get(d.section, d.section)} {d.name}: {_how(d.before, d.after)}" for d in differences if not d.narrows
    )
    checked = plan.checked if plan is not None else None
    return Reach(
        new,
        len(differences) - new - removed,
        removed,
        widens,
        checked.cases_run if checked is not None else 0,
        tuple(sorted(checked.source.cases)) if checked is not None else (),
        tuple(sorted(others)) if widens else (),
    )


def _how(before: object, after: object) -> str:
    """A difference in a few words: counts for lists and texts, names for the rest."""
    if before is None:
        return "new"
    if after is None:
        return "removed"
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        return ", ".join(_member(name, before.get(name), after.get(name)) for name in names)
    return f"lines {_counted(str(before).splitlines(), str(after).splitlines())}"


def _member(name: str, old: object, new: object) -> str:
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return f"{name} {_counted(map(str, old), map(str, new))}"
    return f"{name} {new}" if name == "status" else name


def _counted(old: Iterable[str], new: Iterable[str]) -> str:
    """How many came and went, whatever their places: in time that grows with their number and no faster."""
    before, after = Counter(old), Counter(new)
    more, less = (after - before).total(), (before - after).total()
    return " ".join(text for text, count in ((f"+{more}", more), (f"-{less}", less)) if count) or "in another order"
