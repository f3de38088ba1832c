"""The Anthropic wire format as the stand-in provider speaks it: a message whole, as events, and its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class Message:
    """One answer, in the two shapes it can be given; `usage` has `input_tokens` and `output_tokens`."""

    id: str
    model: str
    usage: Mapping[str, int]

    def whole(self, content: str) -> dict[str, object]:
        """The answer as one document."""
        text: dict[str, object] = {"type": "text", "text": content, "citations": None}
        return {**self._head([text]), "stop_reason": "end_turn", "usage": self.usage}

    def events(self, words: list[str]) -> list[bytes]:
        """The answer as a stream; the output is counted at its end, as the real one does."""
        begun = {**self.usage, "output_tokens": 1}
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        block = {"type": "text", "text": ""}
        told: list[dict[str, object]] = [
            {"type": "message_start", "message": {**self._head([]), "stop_reason": None, "usage": begun}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": w}} for w in words),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": {"output_tokens": self.usage["output_tokens"]}},
            {"type": "message_stop"},
        ]
        return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in told]

    def _head(self, content: list[dict[str, object]]) -> dict[str, object]:
        head = {"id": self.id, "type": "message", "role": "assistant", "model": self.model, "stop_sequence": None}
        return {**head, "content": content}


def error(status: int, text: str) -> web.Response:
    """An error as the format shows it."""
    found = {"type": _TYPES.get(status, "api_error"), "message": text}
    headers = {"Retry-After": "1"} if status == 429 else None
    return web.json_response({"type": "error", "error": found}, status=status, headers=headers)
