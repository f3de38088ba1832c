"""The application: a small dispatcher for the hot routes in front of FastAPI for everything else."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from broker.assembly import Broker
from broker.errors import BrokerError, InvalidRequest
from broker.gateway.wires import WIRES
from broker.health.running import Examination
from broker.tokens.signing_keys import JWKS_MAX_AGE_S
from broker.web import api, asgi, errors, gateway, oauth
from broker.web.api.audit import EXPORTS_AT_ONCE, EXPORTS_EACH
from broker.web.api.packages import PackageRoom
from broker.web.api.streams import Room
from broker.web.asgi import ClientLeft, Handler, Receive, Scope, Send
from broker.web.log import public_log

_JWKS = "/.well-known/jwks.json"
_KEPT = f"public, max-age={JWKS_MAX_AGE_S}".encode()

Running = Callable[[], AbstractAsyncContextManager[None]]


class App:
    """The ASGI application of one broker.

    Args:
        broker: what answers.
        running: what runs while the application serves: the broker's start and end, and its jobs.
    """

    def __init__(self, broker: Broker, running: Running) -> None:
        self._broker = broker
        self._hot: dict[tuple[str, str], Handler] = {
            ("POST", "/token"): oauth.token_endpoint(broker),
            ("POST", "/login"): oauth.sign_in(broker),
        }
        for wire in WIRES.values():
            self._hot["GET", f"/{wire.name}/v1/models"] = gateway.models(broker, wire)
            for operation, path in wire.paths.items():
                self._hot["POST", f"/{wire.name}/v1{path}"] = gateway.call(broker, wire, operation=operation)
        self._methods = {path: method for method, path in self._hot}
        self._published = oauth.published(broker)
        self._log = public_log(broker)
        self._rest = _fastapi(broker, running)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Routes by method and path alone; the Host header decides nothing."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        handler = self._hot.get((method, path))
        if handler is not None:
            await handler(scope, receive, send)
        elif path in self._methods:
            allowed = [(b"allow", self._methods[path].encode())]
            await asgi.send_bytes(send, 405, allowed, b"")
        elif method == "GET" and (path in self._published or path == _JWKS):
            headers = [(b"content-type", b"application/json"), (b"cache-control", _KEPT)]
            document = oauth.jwks(self._broker) if path == _JWKS else self._published[path]
            await asgi.send_bytes(send, 200, headers, document)
        elif method == "GET" and path.startswith("/log/"):
            await self._log(scope, receive, send)
        elif method == "GET" and path == "/healthz":
            await asgi.send_bytes(send, 200, [(b"content-type", b"text/plain")], b"ok\n")
        elif method == "GET" and path == "/readyz":
            ready = self._broker.audit.ready
            await asgi.send_bytes(
                send,
                200 if ready else 503,
                [(b"content-type", b"text/plain")],
                b"ok\n" if ready else b"cannot record\n",
            )
        else:
            request_id = self._broker.new_request_id()
            scope.setdefault("state", {})["request_id"] = request_id
            await self._rest(scope, receive, asgi.stamped(send, request_id))


def _fastapi(broker: Broker, running: Running) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with running():
            yield

    app = FastAPI(
        title="broker",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # a redirect would send the client to whatever the Host header says
    )
    app.state.broker = broker
    app.state.examination = Examination(broker)
    app.state.package_room = PackageRoom()
    app.state.export_room = Room(EXPORTS_AT_ONCE, EXPORTS_EACH, "exports")
    app.include_router(api.router())

    def response_of(answer: errors.Shown) -> Response:
        response = Response(answer.body, answer.status)
        response.raw_headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
        return response

    def shown(request: Request, error: Exception) -> Response:
        return response_of(errors.problem(error, request.state.request_id, f"{broker.rules.issuer}/api/v1"))

    async def known(request: Request, error: Exception) -> Response:
        return shown(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return shown(request, InvalidRequest(f"{where}: {first['msg']}."))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return response_of(errors.plain_problem(error.status_code, request.state.request_id, error.headers or {}))

    async def left(_request: Request, _error: Exception) -> Response:
        return Response(status_code=400)  # nobody reads it

    app.add_exception_handler(BrokerError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientLeft, left)
    app.add_exception_handler(Exception, known)
    _document_hot_routes(app)
    return app


_DESCRIBED = {
    ("post", "/token"): "Exchange evidence for an access token (RFC 8693, RFC 6749 §4.4).",
    ("post", "/login"): "Spend a one-time sign-in link for a key.",
    ("post", "/openai/v1/chat/completions"): "A chat completion, in the OpenAI wire format.",
    ("get", "/openai/v1/models"): "The models that the caller may call.",
    ("post", "/anthropic/v1/messages"): "A message, in the Anthropic wire format.",
    ("get", "/anthropic/v1/models"): "The models that the caller may call.",
    ("get", "/.well-known/oauth-authorization-server"): "The token service's metadata (RFC 8414).",
    ("get", "/.well-known/openid-configuration"): "The same, where OpenID clients look.",
    ("get", "/.well-known/jwks.json"): "The keys that verify access tokens (RFC 7517).",
    ("get", "/.well-known/oauth-protected-resource/openai/v1"): "The gateway's metadata (RFC 9728).",
    ("get", "/.well-known/oauth-protected-resource/anthropic/v1"): "The gateway's metadata (RFC 9728).",
    ("get", "/.well-known/oauth-protected-resource/api/v1"): "The API's metadata (RFC 9728).",
    ("get", "/log/checkpoint"): "The log's newest checkpoint (C2SP tlog-checkpoint).",
    ("get", "/log/receipt/{index}"): "The proof that the log holds a record (C2SP tlog-proof).",
    ("get", "/log/keys"): "The log's key, and the statements by which its keys followed each other.",
    ("get", "/log/tile/{level}/{index}"): "A hash tile of the log (C2SP tlog-tiles).",
    ("get", "/healthz"): "Whether the process answers.",
    ("get", "/readyz"): "Whether the broker can record, and so do anything.",
}
"""What the dispatcher answers, for the OpenAPI document."""


def _document_hot_routes(app: FastAPI) -> None:
    """Puts the routes that the dispatcher answers into the OpenAPI document beside the others."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        document = generated()
        for (method, path), summary in _DESCRIBED.items():
            described: dict[str, Any] = {"summary": summary, "responses": {"200": {"description": "Done."}}}
            if names := re.findall(r"{(\w+)}", path):
                described["parameters"] = [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
                ]
            document["paths"].setdefault(path, {})[method] = described
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way to extend it
