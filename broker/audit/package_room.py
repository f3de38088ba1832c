"""The room for evidence packages that are written now: how many, on which threads, and for how long.

A package costs the database and a thread for as long as it takes, at the pace of whoever reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from broker.errors import Busy

AT_ONCE = 2


class PackageRoom:
    """How many packages are written at once. Fails closed: no room, no package."""

    def __init__(self) -> None:
        self.free = AT_ONCE
        self._threads = ThreadPoolExecutor(AT_ONCE, "package")  # its own: readers of packages keep nobody else waiting

    def take(self) -> None:
        """Takes the room of one package.

        Raises:
            Busy: there is none.
        """
        if not self.free:
            raise Busy(f"{AT_ONCE} evidence packages are being written already. Ask again when one is finished.")
        self.free -= 1

    def give_back(self) -> None:
        """Gives it back."""
        self.free += 1

    async def pieces(self, written: Iterator[bytes], still: Callable[[], Awaitable[None]]) -> AsyncIterator[bytes]:
        """The pieces of a package, each when the one before was taken, and only while `still` does not refuse.

        Raises:
            Refused, Unavailable: what `still` or `written` raise; what came before is no whole package.
        """
        loop = asyncio.get_running_loop()
        while (piece := await loop.run_in_executor(self._threads, next, written, b"")) != b"":
            await still()
            yield piece
