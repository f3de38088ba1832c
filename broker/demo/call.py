"""A call to the stand-in provider and the answer it will get, whatever the wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One call. There is no model: the answer is the last message.

    Args:
        id: the answer's own, without what a format puts before it.
        created: when it was made, in seconds.
        model: the one that was asked for.
        asked: the members of the request.
        words: the answer in pieces, which count as one token each.
    """

    id: str
    created: int
    model: str
    asked: Mapping[str, object]
    words: list[str]

    @property
    def prompt_tokens(self) -> int:
        """A word of a message is a token."""
        messages = self.asked.get("messages")
        told = messages if isinstance(messages, list) else []
        return sum(len(str(each.get("content")).split()) for each in told if isinstance(each, dict))
