"""The Anthropic wire format: messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

import orjson

from broker.errors import InvalidRequest
from broker.gateway.endpoints import Model
from broker.gateway.openai_wire import OPENAI
from broker.gateway.wire import Told, Wire, count

VERSION = "2023-06-01"
"""What `anthropic-version` says where the caller does not; the API asks for one."""

_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_CREATED = "1970-01-01T00:00:00Z"
"""RFC 3339; the API's own word for a release date that is not known."""

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_MAX_PAGE = 1000
_PAGE = 20


def _told(members: Mapping[str, object]) -> Told:
    """A message, or an event: `message_start` holds the message as it begins, `message_delta` the output so far."""
    kind = members.get("type")
    message = members.get("message") if kind == "message_start" else members
    usage = message.get("usage") if isinstance(message, Mapping) else None
    if not isinstance(usage, Mapping):
        return Told(done=kind == "message_stop", failed=kind == "error")
    return Told(_given(usage), count(usage.get("output_tokens")))


def _given(usage: Mapping[str, object]) -> int | None:
    """All that the model was given: the API counts what came from or went into its cache apart."""
    parts = [count(usage.get(name)) for name in _INPUT if usage.get(name) is not None]
    known = [part for part in parts if part is not None]
    return count(sum(known)) if known and len(known) == len(parts) else None


def _model_list(models: Sequence[Model], query: bytes) -> bytes:
    """A page of the list, in order of names, with the API's own way to page.

    Raises:
        InvalidRequest: a parameter that is none, or has no usable value.
    """
    after, before, limit = _page(query)
    listed = sorted(models, key=lambda model: model.name)
    if after:
        listed = [model for model in listed if model.name > after]
    if before:
        listed = [model for model in listed if model.name < before][-limit:]
    shown = listed[:limit]
    return orjson.dumps(
        {
            "data": [
                {"type": "model", "id": model.name, "display_name": model.name, "created_at": _CREATED}
                for model in shown
            ],
            "has_more": len(listed) > len(shown),
            "first_id": shown[0].name if shown else None,
            "last_id": shown[-1].name if shown else None,
        }
    )


def _page(query: bytes) -> tuple[str, str, int]:
    """What a query says of a page: after, before, and how many."""
    try:
        pairs = parse_qsl(query.decode("ascii"), strict_parsing=bool(query), max_num_fields=8)
    except ValueError as error:
        raise InvalidRequest("The query must be limit, after_id and before_id, each with a value.") from error
    given = {name: value for name, value in pairs if name != "beta"}
    if len(given) != len([name for name, _ in pairs if name != "beta"]) or set(given) - {
        "limit",
        "after_id",
        "before_id",
    }:
        raise InvalidRequest("The query may hold limit, after_id and before_id, each once.")
    limit = given.get("limit", str(_PAGE))
    if not limit.isascii() or not limit.isdecimal() or len(limit) > 4 or not 1 <= int(limit) <= _MAX_PAGE:
        raise InvalidRequest(f"`limit` must be a number from 1 to {_MAX_PAGE}.")
    return given.get("after_id", ""), given.get("before_id", ""), int(limit)


def _error_body(status: int, message: str, _code: str, request_id: str) -> bytes:
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})


ANTHROPIC = Wire(
    name="anthropic",
    paths={"messages": "/messages"},
    request_headers=frozenset({b"accept", b"anthropic-version", b"anthropic-beta"}),
    default_headers=(("anthropic-version", VERSION),),
    answer_headers=frozenset({b"request-id"}),
    answer_prefixes=(b"anthropic-ratelimit-",),
    key_header=("x-api-key", ""),
    # `fallbacks` is the API's own word; routers that speak this format know the others too. The API's advisor is a tool
    # that names the model to ask.
    elsewhere=OPENAI.elsewhere,
    tools_name_models=True,
    queries=frozenset({b"", b"beta=true"}),  # `client.beta.messages` of older SDKs
    telling=(b'"usage"', b'"message_stop"', b'"error"'),
    told=_told,
    last_line=b"",
    model_list=_model_list,
    error_body=_error_body,
)
