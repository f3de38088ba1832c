"""What somebody who watches a log is told: it forked, shrank, stands still, does not answer, or holds what was sought.

A look fetches the newest checkpoint, and proves from the tiles that it continues the one of the last look. What was
seen is in a file, so that a restart forgets neither the checkpoint nor what was told already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from broker.cli import whole_log
from broker.cli.api import ApiFailed
from broker.cli.public_log import PublicLog
from broker.cli.whole_log import Records
from broker.clock import Clock
from broker.errors import ConfigurationError, Malformed, ProofInvalid
from broker.formats.note import NoteVerifier
from broker.formats.tiles import TiledTree

Pages = Callable[[int, int], Iterable[Sequence[object]]]
"""Gives the records [start, end), page after page, as `GET /api/v1/audit/entries` does."""

_MOST_AT_ONCE = 20_000
"""Records read in one look; the next one goes on."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something to be told, once.

    Args:
        what: a stable word: log_forked, log_shrank, proof_invalid, no_answer, stale, key_replaced, number_gap,
            record_invalid, no_records, event.
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
    """

    checkpoint: str
    since: float
    answered: float
    key: str
    told: list[str] = field(default_factory=list)
    next: int = -1
    last: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, pinned: NoteVerifier, now: float) -> Seen:
        """What the file holds; the beginning if there is none.

        Raises:
            ConfigurationError: it holds something else.
        """
        if not file.exists():
            return cls("", now, now, pinned.vkey)
        try:
            return cls(**orjson.loads(file.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{file}: this is no state of a watch; move it away to begin anew") from error

    def write(self, file: Path) -> None:
        """Puts it into the file, whole or not at all."""
        partial = file.with_name(file.name + ".partial")
        partial.write_bytes(orjson.dumps(self))
        partial.replace(file)


class Watch:
    """Looks at a log again and again.

    Args:
        log: the log.
        pinned: a key of it.
        seen: what was seen before; changed by each look.
        clock: the time.
        stale_s: how long a log may stand still, or not answer, before that is told.
        ready: asks whether the broker says of itself that it can record.
        pages: reads records, if somebody is signed in.
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
        pages: Pages | None = None,
        sought: Sought | None = None,
    ) -> None:
        self._log = log
        self._pinned = pinned
        self._seen = seen
        self._clock = clock
        self._stale_s = stale_s
        self._ready = ready
        self._pages = pages
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
        self._over("no_answer", "log_forked", "log_shrank", "proof_invalid")
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
        return alarms + self._read(found.tree)

    def _read(self, tree: TiledTree) -> list[Alarm]:
        """Verifies the records that are new, and gives what is told of them."""
        seen = self._seen
        if self._pages is None:
            return []
        if seen.next < 0:
            seen.next = tree.size
        end = min(tree.size, seen.next + _MOST_AT_ONCE)
        records, alarms = Records(seen.next, seen.last), list[Alarm]()
        try:
            for page in self._pages(seen.next, end):
                alarms += [alarm for stated in page for alarm in self._check(records, tree, stated)]
            if records.next < end:
                raise ProofInvalid(f"The broker gives no record {records.next}, which is under its checkpoint.")
            self._over("no_records")
        except ApiFailed as error:
            alarms += self._tell(Alarm("no_records", f"The records cannot be read: {error.detail}"))
        except (ProofInvalid, Malformed) as error:
            alarms.append(Alarm("record_invalid", error.detail, {"index": records.next}))
            records.next += 1  # told, and gone on behind it: one record must not hide all later ones
        seen.next, seen.last = records.next, records.last
        return alarms

    def _check(self, records: Records, tree: TiledTree, stated: object) -> list[Alarm]:
        found = records.check(tree, stated)
        alarms = [Alarm("number_gap", found.gap, {"index": found.index})] if found.gap else []
        try:
            groups = found.groups()
        except (
            Malformed
        ) as error:  # it was committed to as it is, so it is proved, and the next one is not to be missed
            told = f"Record {found.index} holds what nobody can read: {error.detail}"
            return [*alarms, Alarm("record_invalid", told, {"index": found.index})]
        decision = groups.get("decision")
        outcome = str(decision.get("outcome", "")) if isinstance(decision, dict) else ""
        if self._sought.fits(found.entry.kind, outcome):
            more = {"index": found.index, "kind": found.entry.kind, "outcome": outcome, "groups": groups}
            alarms.append(Alarm("event", f"Record {found.index}: {found.entry.kind} {outcome}".rstrip(), more))
        return alarms

    def _tell(self, alarm: Alarm) -> list[Alarm]:
        """The alarm, unless it was told and still holds."""
        if alarm.what in self._seen.told:
            return []
        self._seen.told.append(alarm.what)
        return [alarm]

    def _over(self, *words: str) -> None:
        self._seen.told = [word for word in self._seen.told if word not in words]
