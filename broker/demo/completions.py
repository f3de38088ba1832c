"""The OpenAI wire format as the stand-in provider speaks it: a completion whole, as chunks, and its errors."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping

from aiohttp import web

from broker.demo.call import Call

_KINDS = {429: ("requests", "rate_limit_exceeded"), 401: ("invalid_request_error", "invalid_api_key")}
_KINDS |= {404: ("invalid_request_error", "model_not_found")}


def refusal(headers: Mapping[str, str], key: str) -> web.Response | None:
    """What whoever does not show the key is told."""
    if hmac.compare_digest(headers.get("Authorization", "").encode(), f"Bearer {key}".encode()):
        return None
    return error(401, "Incorrect API key provided.")


def error(status: int, text: str) -> web.Response:
    """An error as the format shows it."""
    kind, code = _KINDS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    found = {"message": text, "type": kind, "param": None, "code": code}
    headers = {"Retry-After": "1"} if status == 429 else None
    return web.json_response({"error": found}, status=status, headers=headers)


def whole(call: Call) -> web.Response:
    """The answer as one document."""
    message = {"role": "assistant", "content": "".join(call.words), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return web.json_response({**_head(call, "chat.completion"), "choices": [choice], "usage": _usage(call)})


def events(call: Call) -> list[bytes]:
    """The answer as a stream; its usage is there if `stream_options.include_usage` asks for it, as in the real one."""
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word}, None) for word in call.words]
    deltas.append(({}, "stop"))
    head = _head(call, "chat.completion.chunk")
    chunks: list[dict[str, object]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
        for delta, finish in deltas
    ]
    options = call.asked.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**head, "choices": [], "usage": _usage(call)})
    return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def _head(call: Call, kind: str) -> dict[str, object]:
    return {"id": f"chatcmpl-{call.id}", "object": kind, "created": call.created, "model": call.model}


def _usage(call: Call) -> dict[str, int]:
    given, made = call.prompt_tokens, len(call.words)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
