"""The JSON body of a request to the API: read for admitted operators alone, bounded, and parsed strictly.

FastAPI would read a body before it asks who sent it, whatever its size, and take the last of two members of one name.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from broker.errors import InvalidRequest, Malformed
from broker.formats import canonical_json
from broker.web import asgi

MAX_BYTES = 8 * 1024 * 1024
_MAX_DEPTH = 32
_TIMEOUT_S = 60.0


class JsonBody:
    """A dependency that gives the body as `kind`. It stands behind `Allowed` in a route's signature. Fails closed.

    Args:
        kind: a pydantic model, or a type that pydantic can check.
    """

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    async def __call__(self, request: Request) -> Any:
        """The body.

        Raises:
            InvalidRequest: no JSON, a member twice, or not what the route takes; the text names the member.
            TooLarge: more than `MAX_BYTES`.
        """
        if not hasattr(request.state, "operator"):
            raise AssertionError("a body is read for admitted operators alone: put Allowed in front")
        data = await asgi.read_body(request.scope, request.receive, max_bytes=MAX_BYTES, timeout_s=_TIMEOUT_S)
        try:
            return await asyncio.to_thread(self._parsed, data)
        except Malformed as error:
            raise InvalidRequest(f"The body is not acceptable JSON: {error.detail}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise InvalidRequest(f"{where}: {first['msg']}.") from error

    def _parsed(self, data: bytes) -> Any:
        return self._adapter.validate_python(
            canonical_json.parse(data, max_bytes=MAX_BYTES, max_depth=_MAX_DEPTH), strict=True
        )

    def documented(self) -> dict[str, Any]:
        """What the OpenAPI document says of the body, for a route's `openapi_extra`."""
        schema = self._adapter.json_schema()
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
