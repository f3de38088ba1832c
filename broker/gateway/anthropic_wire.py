"""The Anthropic wire format: messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    503: "overloaded_error",
}
_MAX_PAGE = 1000
_PAGE = 20
_PARAMETERS = {"limit": str(_PAGE), "after_id": "", "before_id": "", "beta": "true"}
"""What a query for the list may hold, and what it says where it does not."""


def _told(members: Mapping[str, object]) -> Told:
    """A message, or an event: `message_start` holds the message as it begins, `message_delta` the counts so far."""
    kind = members.get("type")
    message = members.get("message") if kind == "message_start" else members
    usage = message.get("usage") if isinstance(message, dict) else None
    if not isinstance(usage, dict):
        return Told(done=kind == "message_stop", failed=kind == "error")
    steps = usage.get("iterations")
    sampled = [each for each in steps if isinstance(each, dict)] if isinstance(steps, list) else []
    return Told(
        _total(_given(usage), map(_given, sampled)),
        _total(count(usage.get("output_tokens")), (count(each.get("output_tokens")) for each in sampled)),
    )


def _given(usage: Mapping[str, object]) -> int | None:
    """All that the model was given: the API counts what came from or went into its cache apart."""
    parts = [count(usage.get(name)) for name in _INPUT if usage.get(name) is not None]
    known = [part for part in parts if part is not None]
    return count(sum(known)) if known and len(known) == len(parts) else None


def _total(whole: int | None, steps: Iterable[int | None]) -> int | None:
    """What the call used: `usage` leaves out some of its own `iterations`, such as a compaction of the context."""
    known = [step for step in steps if step is not None]
    return count(max(whole or 0, sum(known))) if known else whole


def _model_list(models: Sequence[Model], query: bytes) -> bytes:
    """A page of the list, in order of names: the first after `after_id`, or the last before `before_id`.

    Raises:
        InvalidRequest: a parameter that is none, or has no usable value.
    """
    after, before, limit = _page(query)
    names = (model.name for model in models)
    listed = sorted(name for name in names if after < name and (not before or name < before))
    shown = listed[-limit:] if before else listed[:limit]
    return orjson.dumps(
        {
            "data": [{"type": "model", "id": name, "display_name": name, "created_at": _CREATED} for name in shown],
            "has_more": len(listed) > len(shown),
            "first_id": shown[0] if shown else None,
            "last_id": shown[-1] if shown else None,
        }
    )


def _page(query: bytes) -> tuple[str, str, int]:
    """What a query says of a page: after, before, and how many."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=8
        )
    except ValueError as error:
        raise InvalidRequest("The query must be `limit`, `after_id` or `before_id`, each with a value.") from error
    given = dict(pairs)
    if len(given) != len(pairs) or not given.keys() <= _PARAMETERS.keys() or not all(given.values()):
        raise InvalidRequest("The query may hold `limit`, `after_id` and `before_id`, each once and with a value.")
    asked = {**_PARAMETERS, **given}
    if asked["after_id"] and asked["before_id"]:
        raise InvalidRequest("Ask for the models after one or before one: leave `after_id` or `before_id` out.")
    if asked["beta"] != "true":
        raise InvalidRequest("`beta` may be true, and needs not be there.")
    limit = asked["limit"]
    if not limit.isascii() or not limit.isdecimal() or len(limit) > 4 or not 1 <= int(limit) <= _MAX_PAGE:
        raise InvalidRequest(f"`limit` must be a number from 1 to {_MAX_PAGE}.")
    return asked["after_id"], asked["before_id"], int(limit)


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
    request_id_headers=(b"x-request-id", b"request-id"),
    key_header=("x-api-key", ""),
    # Of the API's own members `fallbacks` and its advisor, a tool that names the model to ask, would let another model
    # answer; routers that speak this format know the other words too. The rest travels on: `mcp_servers`, `container`
    # and `thread` say what the model reaches and was told, `inference_geo` and `service_tier` where and how soon; what
    # answers stays the model that was decided on.
    elsewhere=OPENAI.elsewhere,
    tools_name_models=True,
    queries=frozenset({b"", b"beta=true"}),  # `client.beta.messages` of older SDKs
    telling=((b'"usage"', ()), (b'"message_stop"', ()), (b'"error"', ())),
    told=_told,
    last_line=b"",
    model_list=_model_list,
    error_body=_error_body,
)
