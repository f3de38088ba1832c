"""The gateway's routes, plain ASGI: for each wire format its operations, and the list of models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from broker.assembly import Broker
from broker.gateway.calls import Admitted, Answer, IncomingCall
from broker.gateway.wire import Wire
from broker.web import asgi, errors
from broker.web.asgi import ClientLeft, Handler, Receive, Scope, Send

_BODY_TIMEOUT_S = 60.0


def call(broker: Broker, wire: Wire, *, operation: str) -> Handler:
    """One operation of one wire format."""
    audience = f"{broker.rules.issuer}/{wire.name}/v1"
    proxy = broker.settings.server.trusted_proxy
    max_bytes = broker.settings.gateway.max_body_bytes

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = broker.new_request_id()
        source = asgi.source(scope, proxy)
        sender = _Sender(send, request_id)

        async def read(reserve: Callable[[int], None]) -> bytes:
            return await asgi.read_body(scope, receive, max_bytes=max_bytes, timeout_s=_BODY_TIMEOUT_S, reserve=reserve)

        headers = tuple(scope["headers"])  # as they came: what trails the body adds to the list in the scope
        query = bytes(scope.get("query_string") or b"")
        incoming = IncomingCall(
            asgi.presented(scope), wire, operation, audience, query, headers, read, source, request_id
        )
        try:
            admitted = await broker.gateway.admit(incoming)
            sender.record = admitted.record
            await _while_there(receive, _relay(broker, admitted, sender))
        except ClientLeft:
            return
        except Exception as error:
            if sender.started:
                # Too late for an error: the connection is broken off, which every client notices.
                errors.log.warning("request %s broke off: %r", request_id, error)
                raise
            await asgi.send_shown(send, errors.provider_format(error, request_id, audience, wire))

    return answer


def models(broker: Broker, wire: Wire) -> Handler:
    """`GET /models`: what the caller may call, by the same decision as a call."""
    audience = f"{broker.rules.issuer}/{wire.name}/v1"
    proxy = broker.settings.server.trusted_proxy

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        request_id = broker.new_request_id()
        try:
            found = await broker.gateway.models(
                asgi.presented(scope), wire=wire, audience=audience, source=asgi.source(scope, proxy)
            )
            listed = wire.model_list(found, bytes(scope.get("query_string") or b""))
        except Exception as error:  # noqa: BLE001  the one table decides what is shown
            await asgi.send_shown(send, errors.provider_format(error, request_id, audience, wire))
            return
        named = [(name, request_id.encode()) for name in wire.request_id_headers]
        headers = [(b"content-type", b"application/json"), *named]
        await asgi.send_bytes(send, 200, headers, listed)

    return answer


class _Sender:
    """Sends an answer as it arrives."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.record: int | None = None
        self.started = False

    async def start(self, answer: Answer) -> None:
        headers = [*answer.headers, (b"broker-request-id", self._request_id.encode())]
        if self.record is not None:
            headers.append((b"broker-record", str(self.record).encode()))
        self.started = True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})

    async def chunk(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


async def _relay(broker: Broker, admitted: Admitted, sender: _Sender) -> None:
    async with broker.gateway.forward(admitted) as answer:
        await sender.start(answer)
        async for chunk in answer.chunks:
            await sender.chunk(chunk)
    await sender.end()


async def _while_there(receive: Receive, relay: Coroutine[None, None, None]) -> None:
    """Relays until the client leaves, who then has nobody to stream to: the provider is let go, and the end recorded.

    The relay runs in the caller's own task, which is cancelled in the middle of it; one task fewer for each call.

    Raises:
        ClientLeft: there is nobody to answer.
    """
    task = asyncio.current_task()
    assert task is not None
    relaying, gone = True, False

    def left(_watch: object) -> None:
        nonlocal gone
        if relaying:
            gone = task.cancel()

    watch = asyncio.create_task(_left(receive))
    watch.add_done_callback(left)
    try:
        await relay
    except asyncio.CancelledError:
        if not gone or task.cancelling() > 1:
            raise  # somebody else wants this task to end
        raise ClientLeft from None
    finally:
        relaying = False
        watch.cancel()
        if gone:
            task.uncancel()


async def _left(receive: Receive) -> None:
    """Ends when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
