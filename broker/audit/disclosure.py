"""Selective disclosure: which groups of records somebody is shown, and what that person may ask by.

A group that is withheld looks like one that was erased: its commitment stays, so entry, tree and every other group
verify, and of what it says nothing is left, neither content nor salt nor what was copied from it into columns. To ask
by what it says would tell it, so a query that does is refused. The kind of a record and when it was made are never
withheld: the first stands in the entry, and the log's checkpoints tell the second to anyone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.audit.search import Query
from broker.audit.stored_record import readable_groups
from broker.formats.record import GROUPS

COPIED_FROM: Mapping[str, str] = {"agent": "who", "model": "what", "outcome": "decision", "request_id": "request"}
"""Columns of a record that are copies, and the group that each was copied from."""

ASKS_BY: Mapping[str, tuple[str, ...]] = {
    "agent": ("who",),
    "owner": ("for_whom",),
    "human": ("who", "for_whom", "remedy"),
    "kind": (),
    "action": ("what",),
    "outcome": ("decision",),
    "model": ("what",),
    "policy": ("decision", "posture"),
    "request_id": ("request",),
    "since_ms": (),
    "until_ms": (),
    "oldest_first": (),
}
"""Members of a query, and the groups that each of them looks into."""


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What somebody is shown of every record.

    Args:
        groups: the names of the groups that are shown, out of `GROUPS`.
    """

    groups: frozenset[str]

    @property
    def withheld(self) -> list[str]:
        """The names of the groups that are not shown, in their order."""
        return [name for name in GROUPS if name not in self.groups]

    def of(self, stored: bytes) -> dict[str, tuple[str, str]]:
        """The groups to show of those that are stored with a record and can be read: salt, and content, by name."""
        return self.part(readable_groups(stored))

    def part(self, groups: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
        """The groups to show out of these."""
        return groups if len(self.groups) == len(GROUPS) else {n: groups[n] for n in groups if n in self.groups}

    def column(self, name: str, value: str) -> str:
        """What to show of a column: its value, or nothing if it was copied from a group that is withheld."""
        return value if COPIED_FROM[name] in self.groups else ""

    def withholds(self, query: Query) -> tuple[str, str] | None:
        """The first member of a query that looks into a group which is not shown, and that group; None if none does."""
        for name in query.described():
            for group in ASKS_BY[name]:
                if group not in self.groups:
                    return name, group
        return None


WHOLE = Disclosure(frozenset(GROUPS))
"""Every group of every record."""
