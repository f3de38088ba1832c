"""Answers that are written while they are read: how many there are at once, and how long each may take."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from broker.errors import BrokerError, Busy

log = logging.getLogger(__name__)


class Room:
    """How many answers of a kind are written at once. Fails closed: no room, no answer.

    Args:
        at_once: so many.
        what: the kind, in the plural.
    """

    def __init__(self, at_once: int, what: str) -> None:
        self.free = at_once
        self._told = f"{at_once} {what} are being written already. Ask again when one is finished."

    def take(self) -> None:
        """Takes the room of one.

        Raises:
            Busy: there is none.
        """
        if not self.free:
            raise Busy(self._told)
        self.free -= 1

    def give_back(self) -> None:
        """Gives it back."""
        self.free += 1


class Bounded(StreamingResponse):
    """An answer as it is written. It ends at the last piece, or the connection is cut, so that it never looks whole.

    Args:
        pieces: the answer's.
        media_type: their type.
        room: its room was taken, and is given back.
        within_s: seconds after which it is cut, however slowly it is read.
    """

    def __init__(self, pieces: AsyncIterator[bytes], media_type: str, room: Room, *, within_s: float) -> None:
        super().__init__(pieces, media_type=media_type)
        self._room = room
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._room.give_back()

    async def stream_response(self, send: Send) -> None:
        """Sends it; a refusal on the way leaves the answer without its end, and the server cuts the connection then."""
        try:
            async with asyncio.timeout(self._within_s):
                await super().stream_response(send)
        except (BrokerError, TimeoutError) as error:
            log.warning("an answer was cut short: %s", getattr(error, "detail", "it took too long"))
