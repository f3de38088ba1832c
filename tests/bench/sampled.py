"""`broker serve` that notes where its CPU time goes, a few hundred times a second. For `tests.bench.profile`.

A timer of the process's CPU time interrupts the loop's thread. What each thread has used since the last time is put
down to the code it is in now: measured time, not counted calls, so it adds up to what the process used. Time that the
loop's own machinery took (libuv, sockets, waking tasks) is seen when the next Python frame begins, and put down to it.

Start and stop with SIGUSR1; stopping writes a JSON object `{stack: seconds}` to the file named second.
"""

from __future__ import annotations

import dis
import gc
import json
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

import typer

from broker.cli import server
from broker.settings import load

EVENT_LOOP = "event loop"
COLLECTOR = "garbage collector"
SEPARATOR = ";"

_EVERY_S = 0.002
_RESUME = dis.opmap["RESUME"]
_BELOW_THE_LOOP = ("asyncio.runners", "asyncio.base_events", "uvicorn.server", "uvicorn._compat", "threading")
_MAX_FRAMES = 60


class Sampler:
    """Takes the samples, and writes them down.

    Args:
        file: where to.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._spent_s: defaultdict[str, float] = defaultdict(float)
        self._last_s: dict[int, float] = {}
        self._running = self._sampling = False
        self._main = threading.main_thread().ident
        gc.callbacks.append(_collected)
        signal.signal(signal.SIGUSR1, self._toggle)
        signal.signal(signal.SIGPROF, self._sample)

    def _toggle(self, _signal: int, _frame: FrameType | None) -> None:
        self._running = not self._running
        signal.setitimer(signal.ITIMER_PROF, *((_EVERY_S, _EVERY_S) if self._running else (0.0, 0.0)))
        if self._running:
            self._spent_s.clear()
            self._last_s = _threads_cpu_s()
            return
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._spent_s), "utf-8")
        new.replace(self._file)

    def _sample(self, _signal: int, interrupted: FrameType | None) -> None:
        if self._sampling:  # interrupted by the next one
            return
        self._sampling = True
        frames = sys._current_frames()
        for ident, used_s in _threads_cpu_s().items():
            spent_s = used_s - self._last_s.get(ident, used_s)
            if spent_s > 0:
                main = ident == self._main
                self._spent_s[_stack(interrupted if main else frames.get(ident), main=main)] += spent_s
        self._last_s = _threads_cpu_s()  # without what this took
        self._sampling = False


def _threads_cpu_s() -> dict[int, float]:
    return {
        thread.ident: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None and thread.is_alive()
    }


def _stack(frame: FrameType | None, *, main: bool) -> str:
    """The frames from outside to inside as "module:function", joined by `SEPARATOR`."""
    names: list[str] = []
    innermost = frame
    while frame is not None and len(names) < _MAX_FRAMES:
        module = str(frame.f_globals.get("__name__", "?"))
        if module.startswith(_BELOW_THE_LOOP):
            if main:
                break
        else:
            names.append(f"{module}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    if not main:
        return SEPARATOR.join(reversed(names)) or "thread"
    if innermost is None or not names:
        return EVENT_LOOP
    if names[0].endswith(":_collected"):
        return COLLECTOR
    if len(names) == 1 and innermost.f_code.co_code[innermost.f_lasti] == _RESUME:
        return EVENT_LOOP  # it has only just been called: the time before was the loop's
    return SEPARATOR.join(reversed(names))


def _collected(_phase: str, _details: dict[str, int]) -> None:
    """Is called when the collector has run, so that a sample taken then shows this frame."""


if __name__ == "__main__":
    Sampler(Path(sys.argv[2]))
    try:
        server.run(load(Path(sys.argv[1])), sign_in_link=None, json=True)
    except typer.Exit as end:
        sys.exit(end.exit_code)
