"""What a change comes to is counted on the loop, so it must cost no more than reading it."""

from __future__ import annotations

from broker.changes import reach
from broker.changes.plan import Difference


def _policies(count: int, owner: str) -> str:
    return "".join(
        f'@id("p{n}")\npermit (\n  principal,\n  action,\n  resource\n)\n'
        f'when {{ principal.owner == "{owner}-{n}" }};\n\n'
        for n in range(count)
    )


def test_a_large_file_is_counted_as_fast_as_it_is_read() -> None:
    """Twelve thousand policies, each changed in one of its lines among many that are alike: nobody is kept waiting.

    Looking for the longest run of lines that stayed would take days.
    """
    before, after = _policies(12_000, "a"), _policies(12_000, "b")
    found = reach.of([Difference("policies", "night.cedar", before, after)])
    assert found.widens == ("policy file night.cedar: lines +12000 -12000",)


def test_lines_that_changed_places_are_said_to() -> None:
    """A text of the same lines is no text that stayed."""
    found = reach.of([Difference("policies", "night.cedar", "a\nb\n", "b\na\n")])
    assert found.widens == ("policy file night.cedar: lines in another order",)


def test_what_is_there_twice_counts_twice() -> None:
    """Items are counted with how often they stand there."""
    before, after = {"models": ["a", "b"], "x": 1}, {"models": ["b", "a", "c", "c"], "x": 1}
    found = reach.of([Difference("endpoints", "one", before, after)])
    assert found.widens == ("endpoint one: models +2",)
