"""Brokers in processes of their own that end themselves, as `kill -9` would, at a chosen point of a chosen commit.

`python -m tests.crash_server` imports everything once, then forks a broker for each line it reads: a JSON object with
the `settings` and the path `armed`. When that file holds "POINT N", the process kills itself the Nth time from then on
that the writer comes to that point. A line with the signal that ended the broker answers each line.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn

from broker import migrations
from broker.assembly import assemble
from broker.settings import Settings
from broker.web.app import App
from tests.child import Child


def main() -> None:
    """Forks a broker for each line, one after the other."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            serve(Settings.model_validate(order["settings"]), Path(order["armed"]))
            os._exit(0)
        status = _outlived(pid)
        sys.stdout.write(f"{os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}\n")
        sys.stdout.flush()


def _outlived(pid: int) -> int:
    """Waits for a broker's end, and ends it when the test that wanted it is gone: its pipe closes."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if select.select([sys.stdin], [], [], 0.005)[0]:
            os.kill(pid, signal.SIGKILL)
            sys.exit(1)


def serve(settings: Settings, armed: Path) -> None:
    """Runs a broker without periodic work until it kills itself."""
    broker = assemble(settings, prepare=migrations.upgrade, probe=_killer(armed))

    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        await broker.start()
        yield

    config = uvicorn.Config(
        App(broker, life), host="127.0.0.1", port=settings.server.port, log_config=None, access_log=False, ws="none"
    )
    uvicorn.Server(config).run()


def _killer(armed: Path) -> Callable[[str], None]:
    passed: list[str] = []

    def probe(point: str) -> None:
        if armed.exists():
            passed.append(point)
            deadly, _, count = armed.read_text().partition(" ")
            if passed.count(deadly) == int(count):
                os.kill(os.getpid(), signal.SIGKILL)

    return probe


class CrashServer(Child):
    """The test's side: starts brokers, arms them, and waits for their death. One at a time."""

    def __init__(self) -> None:
        super().__init__("tests.crash_server")

    async def start(self, settings: Settings, armed: Path) -> None:
        """Starts a broker; returns when it answers, or is dead."""
        settings_json = json.loads(settings.model_dump_json())
        settings_json["storage"]["commit_timeout_s"] = 1.0  # the most that a configuration may say
        self.tell(json.dumps({"settings": settings_json, "armed": str(armed)}))
        self._death = asyncio.create_task(asyncio.to_thread(self.line))
        for _ in range(4_000):
            if self._death.done():
                return
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", settings.server.port)
            except OSError:
                await asyncio.sleep(0.005)
            else:
                writer.close()
                await writer.wait_closed()
                return
        raise AssertionError("the broker did not start")

    async def death(self) -> int:
        """The signal that ended the broker."""
        async with asyncio.timeout(20):
            return int(await self._death)


if __name__ == "__main__":
    main()
