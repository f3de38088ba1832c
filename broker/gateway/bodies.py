"""The bodies of calls in memory: bounded in all and for each agent, and read off the loop when they are large."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from broker.errors import Unavailable

T = TypeVar("T")

MAX_BYTES = 256 * 1024 * 1024
"""Held at once, from the first byte read until the call has ended."""

MAX_AGENT_BYTES = MAX_BYTES // 4
"""Of which one agent may hold so many: no agent takes the room of all."""

_READ_ON_THE_LOOP = 64 * 1024


class BodyRoom:
    """How much of calls' bodies is held now. Fails closed: no room, no call."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._total = 0
        self._reading = asyncio.Semaphore(1)

    def reserve(self, agent: str) -> Reservation:
        """Room for one call's body, taken as it arrives."""
        return Reservation(self, agent)

    def take(self, agent: str, size: int) -> None:
        """Takes room for `size` bytes.

        Raises:
            Unavailable: there is none.
        """
        if self._total + size > MAX_BYTES or self._held[agent] + size > MAX_AGENT_BYTES:
            raise Unavailable("Too many large calls are under way. Try again when some have ended.")
        self._held[agent] += size
        self._total += size

    def give_back(self, agent: str, size: int) -> None:
        """Gives room back."""
        self._total -= size
        self._held[agent] -= size
        if self._held[agent] <= 0:
            del self._held[agent]

    async def read(self, body: bytes, parse: Callable[[bytes], T]) -> T:
        """What `parse` makes of a body: a large one in a thread, one at a time, so that nobody waits for it."""
        if len(body) <= _READ_ON_THE_LOOP:
            return parse(body)
        async with self._reading:
            return await asyncio.to_thread(parse, body)


class Reservation:
    """The room that one call's body takes as it arrives, until the call has ended.

    Args:
        room: where it is taken.
        agent: whose it is.
    """

    def __init__(self, room: BodyRoom, agent: str) -> None:
        self._room = room
        self._agent = agent
        self._size = 0

    def take(self, size: int) -> None:
        """Takes room for another piece of the body.

        Raises:
            Unavailable: there is none.
        """
        self._room.take(self._agent, size)
        self._size += size

    def give_back(self) -> None:
        """Gives all of it back; a second time changes nothing."""
        size, self._size = self._size, 0
        self._room.give_back(self._agent, size)
