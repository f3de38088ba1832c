"""A watch as the command makes it, over a log that does what a test wants."""

from __future__ import annotations

from pathlib import Path

from broker.cli.alarms import Alarm, Seen, Sought, Watch
from broker.cli.kept_files import KeptFile
from broker.cli.public_log import PublicLog
from broker.formats.note import NoteVerifier
from tests.cli.stand_in_log import StandInLog
from tests.fakes import FakeClock

STALE_S = 60.0


class Watched:
    """A watch as the command makes it, on a clock that stands still; each look is that of a new process."""

    def __init__(self, log: StandInLog, public: PublicLog, file: Path) -> None:
        self.log = log
        self.clock = FakeClock()
        self.file = file
        self.records = False
        self.sought = Sought()
        self._public = public
        self._pinned = NoteVerifier.parse(log.vkey)

    def look(self, after_s: float = 1.0) -> list[Alarm]:
        """Looks after so much time, from what the file holds, and writes it again."""
        self.clock.advance(after_s)
        file = KeptFile(self.file)
        seen = Seen.read(file, self._pinned, self.clock.now())
        watch = Watch(
            self._public,
            self._pinned,
            seen,
            self.clock,
            stale_s=STALE_S,
            ready=self._public.is_ready,
            given=self.log if self.records else None,
            sought=self.sought,
        )
        found = watch.look()
        seen.write(file)
        return found

    def words(self, after_s: float = 1.0) -> list[str]:
        """What a look told, by word."""
        return [alarm.what for alarm in self.look(after_s)]
