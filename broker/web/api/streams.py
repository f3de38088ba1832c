"""Answers that are written while they are read: how many there are at once, and how long each may take."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from broker.errors import BrokerError, Busy

log = logging.getLogger(__name__)


class Room:
    """How many answers of a kind are written at once, in all and for one operator. Fails closed: no room, no answer.

    Args:
        at_once: so many in all.
        each: so many for one operator, so that nobody keeps the others from theirs.
        what: the kind, in the plural.
    """

    def __init__(self, at_once: int, each: int, what: str) -> None:
        self._at_once = at_once
        self._each = each
        self._what = what
        self._taken: Counter[str] = Counter()

    def take(self, operator: str) -> None:
        """Takes the room of one, for an operator.

        Raises:
            Busy: there is none.
        """
        if self._taken.total() >= self._at_once:
            raise Busy(f"{self._at_once} {self._what} are being written already. Ask again when one is finished.")
        if self._taken[operator] >= self._each:
            raise Busy(f"{self._each} of the {self._what} being written are yours. Ask again when one is finished.")
        self._taken[operator] += 1

    def give_back(self, operator: str) -> None:
        """Gives it back."""
        self._taken -= Counter([operator])


class Bounded(StreamingResponse):
    """An answer as it is written. It ends at the last piece, or the connection is cut, so that it never looks whole.

    Args:
        pieces: the answer's.
        media_type: their type.
        room: its room was taken, and is given back.
        operator: for whom.
        within_s: seconds after which it is cut, however slowly it is read.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], media_type: str, room: Room, operator: str, *, within_s: float
    ) -> None:
        super().__init__(pieces, media_type=media_type)
        self._room = room
        self._operator = operator
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._room.give_back(self._operator)

    async def stream_response(self, send: Send) -> None:
        """Sends it; a refusal on the way leaves the answer without its end, and the server cuts the connection then."""
        try:
            async with asyncio.timeout(self._within_s):
                await super().stream_response(send)
        except (BrokerError, TimeoutError) as error:
            log.warning("an answer was cut short: %s", getattr(error, "detail", "it took too long"))
