"""What somebody who watches a log is told: it forked, shrank, stands still, does not answer, or holds what was sought.

A look fetches the newest checkpoint, and proves from the tiles that it continues the one of the last look. What was
seen is in a file, so that a restart forgets neither the checkpoint nor what was told already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from pydantic import TypeAdapter

from broker.audit.erasures import GroupMissing
from broker.cli import whole_log
from broker.cli.absences import Absences
from broker.cli.answers import ApiFailed
from broker.cli.kept_files import KeptFile
from broker.cli.proved_records import ProvedRecord, RecordInvalid, Records, place_of
from broker.cli.public_log import PublicLog
from broker.clock import Clock
from broker.errors import ConfigurationError, Malformed, ProofInvalid
from broker.formats import checkpoint
from broker.formats.note import NoteVerifier
from broker.formats.record import GROUPS
from broker.formats.tiles import TiledTree


class Given(Protocol):
    """Records as the broker gives them to somebody who is signed in; nothing of them is verified."""

    def pages(self, start: int, end: int) -> Iterable[Sequence[object]]:
        """The records [start, end), page after page, as `GET /api/v1/audit/entries` gives them."""

    def erasures(self, start: int, end: int) -> Iterable[object]:
        """The records of erasures (`broker.cli.absences.Elsewhere`)."""


_MOST_AT_ONCE = 20_000
"""Records read in one look; the next one goes on."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something to be told, once.

    Args:
        what: a stable word: log_forked, log_shrank, proof_invalid, no_answer, stale, key_replaced, number_gap,
            record_invalid, group_missing, no_records, outcome_hidden, event.
        detail: a sentence.
        more: what proves or describes it.
    """

    what: str
    detail: str
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sought:
    """Which records are told; an empty field means any, and both empty none."""

    kinds: frozenset[str] = frozenset()
    outcome: str = ""

    def fits(self, kind: str, outcome: str) -> bool:
        """Whether a record is one of them."""
        if not self.kinds and not self.outcome:
            return False
        return (not self.kinds or kind in self.kinds) and (not self.outcome or outcome == self.outcome)


@dataclass(slots=True)
class Seen:
    """What was seen of a log up to now. Times in seconds since the epoch.

    Args:
        checkpoint: the newest one that verified, a signed note; "" before the first.
        since: when it was seen first.
        answered: when the log last gave one that verified.
        key: the log's key at that time.
        told: alarms that still hold, by word.
        next: the index of the next record to read; -1 before the first look.
        last: each agent's last number, by pseudonym.
        gone: groups that records did not show, by index, of which nobody could be asked yet whether they were erased.
    """

    checkpoint: str
    since: float
    answered: float
    key: str
    told: list[str] = field(default_factory=list)
    next: int = -1
    last: dict[str, int] = field(default_factory=dict)
    gone: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: KeptFile, pinned: NoteVerifier, now: float) -> Seen:
        """What the file holds; the beginning if there is none.

        Raises:
            ConfigurationError: it holds something else.
        """
        data = file.read()
        if data is None:
            return cls("", now, now, pinned.vkey)
        try:
            seen = TypeAdapter(cls).validate_json(data, strict=True)
            if not all(index.isdecimal() and {*GROUPS} >= {*groups} for index, groups in seen.gone.items()):
                raise ValueError("no groups of records")
            if seen.checkpoint:
                checkpoint.parse_unverified(seen.checkpoint)
        except (ValueError, Malformed) as error:
            raise ConfigurationError(
                f"{file.path}: this is no state of a watch: put a copy of it back, or move it away to begin anew"
            ) from error
        return seen

    def write(self, file: KeptFile) -> None:
        """Puts it into the file, whole or not at all.

        Raises:
            ConfigurationError: somebody else has changed the file since it was read.
        """
        if not file.replace(orjson.dumps(self)):
            raise ConfigurationError(
                f"{file.path}: another watch has changed this file, and what it holds stays; this watch ends. Give "
                "each watch a file of its own."
            )


class Watch:
    """Looks at a log again and again.

    Args:
        log: the log.
        pinned: a key of it.
        seen: what was seen before; changed by each look.
        clock: the time.
        stale_s: how long a log may stand still, or not answer, before that is told.
        ready: asks whether the broker says of itself that it can record.
        given: reads records, if somebody is signed in.
        sought: which of them are told.
    """

    def __init__(
        self,
        log: PublicLog,
        pinned: NoteVerifier,
        seen: Seen,
        clock: Clock,
        *,
        stale_s: float,
        ready: Callable[[], bool],
        given: Given | None = None,
        sought: Sought | None = None,
    ) -> None:
        self._log = log
        self._pinned = pinned
        self._seen = seen
        self._clock = clock
        self._stale_s = stale_s
        self._ready = ready
        self._given = given
        self._sought = sought or Sought()

    def look(self) -> list[Alarm]:
        """Looks once; gives what is new to tell. A log that proves nothing changes nothing of what is kept."""
        now, seen = self._clock.now(), self._seen
        try:
            found = whole_log.verified(self._log, self._pinned, seen.checkpoint or None)
        except (ApiFailed, Malformed) as error:
            if now - seen.answered < self._stale_s:
                return []
            told = (
                f"The log has given no checkpoint that can be verified for {int(now - seen.answered)} s: {error.detail}"
            )
            return self._tell(Alarm("no_answer", told))
        except ProofInvalid as error:
            return self._tell(Alarm(error.reason, error.detail, {"kept": seen.checkpoint, "given": self._log.given}))
        alarms = []
        self._over("no_answer", "log_forked", "log_shrank")
        seen.answered = now
        if found.replaced_by is not None and found.replaced_by != seen.key:
            seen.key = found.replaced_by
            alarms.append(
                Alarm(
                    "key_replaced",
                    "The log's key was replaced, by a statement that both keys signed. Ask the operators whether it "
                    "was them, and pin the new key.",
                    {"key": found.replaced_by},
                )
            )
        if found.head.size != found.continues:
            seen.checkpoint, seen.since = found.note, now
            self._over("stale")
        elif now - seen.since >= self._stale_s:
            state = "says that it can record" if self._ready() else "says that it cannot record, or does not answer"
            told = (
                f"The log's {found.head.size} entries are the same since {int(now - seen.since)} s. The broker {state}."
            )
            alarms += self._tell(Alarm("stale", told))
        return [*alarms, *self._read(found.tree)]

    def _read(self, tree: TiledTree) -> Iterator[Alarm]:
        """Verifies the records that are new, and gives what is told of them; each counts, whatever the others are."""
        seen = self._seen
        if self._given is None:
            self._over("proof_invalid")
            return
        if seen.next < 0:
            seen.next = tree.size
        end = min(tree.size, seen.next + _MOST_AT_ONCE)
        records, absences = Records(seen.next, seen.last), Absences({int(at): gone for at, gone in seen.gone.items()})
        try:
            if seen.gone:  # as the last look could not ask why
                yield from self._settle(absences, tree, seen.next)
            for page in self._given.pages(seen.next, end):
                yield from self._page(records, absences, tree, page, end)
            if records.next < end:
                yield _not_given(records.next, end)
                records.skip(end)
            yield from self._settle(absences, tree, records.next)
            self._over("no_records", "proof_invalid")
        except ApiFailed as error:
            yield from self._tell(Alarm("no_records", f"The records cannot be read: {error.detail}"))
        except (ProofInvalid, Malformed) as error:
            yield from self._tell(Alarm("proof_invalid", error.detail))
        seen.next, seen.last = records.next, records.last
        seen.gone = {str(index): list(gone) for index, gone in absences.gone.items()}

    def _page(
        self, records: Records, absences: Absences, tree: TiledTree, page: Sequence[object], end: int
    ) -> Iterator[Alarm]:
        """What is told of those before `end`, each found by its index: one may be missing, or be there twice."""
        given: dict[int | None, object] = {}
        for stated in page:
            given.setdefault(place_of(stated), stated)
        places = [place for place in given if place is not None and records.next <= place < end]
        last = max(places, default=min(end, records.next + len(page)) - 1)
        while records.next <= last:
            index, found, gap = records.next, None, ""
            try:
                found = records.check(tree, given.get(index))
                gap = found.gap
                absences.note(found)
            except RecordInvalid as error:
                gap = gap or error.gap
                yield Alarm("record_invalid", error.detail, {"index": index})
            except GroupMissing as error:
                yield Alarm("group_missing", error.detail, {"index": index})
            if gap:
                yield Alarm("number_gap", gap, {"index": index})
            if found is not None:
                yield from self._told(found)

    def _settle(self, absences: Absences, tree: TiledTree, behind: int) -> Iterator[Alarm]:
        """Asks which of the groups that are gone were erased, and tells of the others."""
        assert self._given is not None
        for invalid in absences.settle(tree, behind, self._given.erasures):
            yield Alarm("record_invalid", invalid.detail, {"index": invalid.index})
        for index, missing in absences.missing():
            yield Alarm("group_missing", missing.detail, {"index": index})

    def _told(self, found: ProvedRecord) -> Iterator[Alarm]:
        """A record that was sought; or that nobody can say whether it was."""
        sought, kind = self._sought, found.entry.kind
        try:
            groups = found.groups()
        except Malformed as error:  # it was committed to as it is, so it is proved
            told = f"Record {found.index} holds what nobody can read: {error.detail}"
            yield Alarm("record_invalid", told, {"index": found.index})
            return
        if "decision" in found.contents:
            self._over("outcome_hidden")
        elif sought.outcome and sought.fits(kind, sought.outcome):
            why = "is withheld from you" if "decision" in found.withheld else "is gone"
            told = (
                f"Record {found.index} does not show its outcome, for its group decision {why}. A record is not told "
                "by --outcome then: choose by --kind alone, or ask for the right to read that group."
            )
            yield from self._tell(Alarm("outcome_hidden", told, {"index": found.index}))
        decision = groups.get("decision")
        outcome = str(decision.get("outcome", "")) if isinstance(decision, dict) else ""
        if sought.fits(kind, outcome):
            more = {"index": found.index, "kind": kind, "outcome": outcome, "groups": groups}
            yield Alarm("event", f"Record {found.index}: {kind} {outcome}".rstrip(), more)

    def _tell(self, alarm: Alarm) -> list[Alarm]:
        """The alarm, unless it was told and still holds."""
        if alarm.what in self._seen.told:
            return []
        self._seen.told.append(alarm.what)
        return [alarm]

    def _over(self, *words: str) -> None:
        self._seen.told = [word for word in self._seen.told if word not in words]


def _not_given(first: int, end: int) -> Alarm:
    which = f"record {first}" if first + 1 == end else f"records {first} to {end - 1}"
    told = (
        f"The broker gives no {which}, under its checkpoint: withheld or lost. Ask for what is there of it with "
        f"`broker audit verify --log --records {first}:{end}`."
    )
    return Alarm("record_invalid", told, {"index": first})
