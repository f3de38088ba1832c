"""Processes of the bench's own: how they are started, what they cost, how they end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
_STOP_TIMEOUT_S = 20.0


class Child:
    """A module of this folder in a process of its own that speaks JSON, a line each way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def order(self, **said: object) -> Any:
        """Sends a line and gives the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        return self.told()

    def told(self) -> Any:
        """The next line of the child.

        Raises:
            RuntimeError: it has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with exit code {self._process.wait()}")
        return json.loads(line)


@contextmanager
def child(module: str, *arguments: str) -> Iterator[Child]:
    """Runs `tests.bench.MODULE` until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.bench.{module}", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the bench, which ends it in good order
    )
    try:
        yield Child(process)
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a process in good order, or else without."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads so far, in seconds.

    From the scheduler's own count of each thread in nanoseconds (Linux, proc(5) schedstat); elsewhere what the system
    says, in ticks of 10 ms. Threads that have ended are not in the finer one: the broker keeps its.
    """
    try:
        return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    except (OSError, ValueError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def rss_bytes(pid: int) -> int:
    """The memory of a process that is resident."""
    return int(psutil.Process(pid).memory_info().rss)


def tell(**said: object) -> None:
    """The child's side: says a line."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """The child's side, where it takes no orders: ends when the bench is gone, however that came."""
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    import os

    sys.stdin.read()
    os._exit(0)
