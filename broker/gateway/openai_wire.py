"""The OpenAI wire format: chat completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from broker.gateway.endpoints import Model
from broker.gateway.wire import Told, Wire, count


def _told(members: Mapping[str, object]) -> Told:
    usage = members.get("usage")
    failed = isinstance(members.get("error"), dict)
    if not isinstance(usage, dict):
        return Told(failed=failed)
    return Told(count(usage.get("prompt_tokens")), count(usage.get("completion_tokens")), failed=failed)


def _model_list(models: Sequence[Model], _query: bytes) -> bytes:
    data = [{"id": model.name, "object": "model", "created": 0, "owned_by": model.endpoint.name} for model in models]
    return orjson.dumps({"object": "list", "data": data})


def _error_body(status: int, message: str, code: str, _request_id: str) -> bytes:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


OPENAI = Wire(
    name="openai",
    paths={"chat.completions": "/chat/completions"},
    request_headers=frozenset({b"accept", b"openai-beta"}),
    default_headers=(),
    answer_headers=frozenset({b"x-request-id", b"openai-processing-ms", b"openai-version"}),
    answer_prefixes=(b"x-ratelimit-",),
    request_id_headers=(b"x-request-id",),
    key_header=("authorization", "Bearer "),
    # Members by which routers that speak this format choose another model or address than `model` says.
    elsewhere=frozenset(
        {"models", "model_list", "fallbacks", "context_window_fallbacks", "route", "provider", "custom_llm_provider"}
        | {"api_base", "base_url", "api_key", "api_version"}
    ),
    tools_name_models=False,
    queries=frozenset({b""}),
    telling=(
        (b'"usage"', (b'"usage":null', b'"usage": null')),
        (b'"error"', (b'"error":null', b'"error": null')),
    ),
    told=_told,
    last_line=b"[DONE]",
    model_list=_model_list,
    error_body=_error_body,
)
