"""The Anthropic wire format as the stand-in provider speaks it: a message whole, as events, and its errors."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping

from aiohttp import web

from broker.demo.call import Call

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def refusal(headers: Mapping[str, str], key: str) -> web.Response | None:
    """What whoever does not show the key, or no version of the API, is told."""
    if not hmac.compare_digest(headers.get("x-api-key", "").encode(), key.encode()):
        return error(401, "invalid x-api-key")
    if not headers.get("anthropic-version"):
        return error(400, "anthropic-version: header is required")
    return None


def error(status: int, text: str) -> web.Response:
    """An error as the format shows it."""
    found = {"type": _TYPES.get(status, "api_error"), "message": text}
    headers = {"Retry-After": "1"} if status == 429 else None
    return web.json_response({"type": "error", "error": found}, status=status, headers=headers)


def whole(call: Call) -> web.Response:
    """The answer as one document."""
    text: dict[str, object] = {"type": "text", "text": "".join(call.words), "citations": None}
    usage = {"input_tokens": call.prompt_tokens, "output_tokens": len(call.words)}
    document = {**_head(call, [text]), "stop_reason": "end_turn", "usage": usage}
    return web.json_response(document, headers={"request-id": f"req_{call.id}"})


def events(call: Call) -> list[bytes]:
    """The answer as a stream; the output is counted at its end, as the real one does."""
    begun = {**_head(call, []), "stop_reason": None, "usage": {"input_tokens": call.prompt_tokens, "output_tokens": 1}}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    deltas = ({"type": "text_delta", "text": word} for word in call.words)
    told: list[dict[str, object]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": each} for each in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": len(call.words)}},
        {"type": "message_stop"},
    ]
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in told]


def _head(call: Call, content: list[dict[str, object]]) -> dict[str, object]:
    head = {"id": f"msg_{call.id}", "type": "message", "role": "assistant", "model": call.model, "content": content}
    return {**head, "stop_sequence": None}
