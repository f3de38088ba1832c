"""Whether records that come one after the other leave anything out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from broker.errors import ProofInvalid

_TAGS_KEPT = 16_384
"""Principals whose last running number is kept; the others' is asked for, or taken as it comes."""

Place = Callable[[str, int], int | None]


class Gap(ProofInvalid):
    """A record that must be there is not; the text names the place."""

    reason = "gap"


class Continuity:
    """Follows records in the log's order: no index is left out, and no running number of an agent. Fails closed.

    Args:
        first: the index that must come first.
    """

    def __init__(self, first: int) -> None:
        self._expected = first
        self._last: OrderedDict[str, int] = OrderedDict()

    def follow(self, index: int, agent_tag: str, seq: int, place: Place | None = None) -> None:
        """Takes the next record.

        Args:
            index, agent_tag, seq: as they stand in the log.
            place: gives the index of a principal's record by pseudonym and running number, None if there is none.
                Without it the first number seen of a principal is taken as it is; every later one must follow.

        Raises:
            Gap: something before it is missing, or it was there already.
        """
        if index != self._expected:
            raise Gap(
                f"Record {self._expected} is missing: record {index} came in its place. The log is not whole; "
                "ask the operators for the backup that has it."
            )
        if seq != self._before(index, agent_tag, seq, place) + 1:
            raise Gap(
                f"Before record {index}, number {seq} of the principal {agent_tag}, its number {seq - 1} is missing. "
                "The log is not whole; ask the operators for the backup that has it."
            )
        self._expected = index + 1
        self._last[agent_tag] = seq
        self._last.move_to_end(agent_tag)
        if len(self._last) > _TAGS_KEPT:
            self._last.popitem(last=False)

    def end(self, size: int) -> None:
        """Says that nothing more comes of what ends before index `size`.

        Raises:
            Gap: the last of them are missing.
        """
        if self._expected != size:
            raise Gap(
                f"Record {self._expected} is missing, and all after it up to {size - 1}. The log is not whole; ask the "
                "operators for the backup that has them."
            )

    def _before(self, index: int, agent_tag: str, seq: int, place: Place | None) -> int:
        known = self._last.get(agent_tag)
        if known is not None:
            return known
        if place is None or seq == 1:
            return seq - 1
        found = place(agent_tag, seq - 1)
        return seq - 1 if found is not None and found < index else -1
