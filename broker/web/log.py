"""The public side of the log: checkpoint, hash tiles (C2SP tlog-tiles), keys and proofs. Anybody may read them."""

from __future__ import annotations

import asyncio
import re

import orjson

from broker.assembly import Broker
from broker.audit import trail
from broker.errors import NotFound
from broker.web import asgi, errors
from broker.web.asgi import Handler, Receive, Scope, Send

_TILE = re.compile(r"/log/tile/(0|[1-9][0-9]?)/((?!x000/)(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_RECEIPT = re.compile(r"/log/receipt/(0|[1-9][0-9]{0,17})")
_FULL = 256
_TRIES, _BETWEEN_TRIES_S = 40, 0.05


def public_log(broker: Broker) -> Handler:
    """`GET /log/checkpoint`, `GET /log/keys`, `GET /log/receipt/<index>` and `GET /log/tile/<L>/<N>[.p/<W>]`."""

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        try:
            if path == "/log/checkpoint":
                note = await asyncio.to_thread(broker.tree.head)
                headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
                await asgi.send_bytes(send, 200, headers, note.encode())
                return
            if (asked := _RECEIPT.fullmatch(path)) is not None:
                proof = await _receipt(broker, int(asked[1]))
                headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
                await asgi.send_bytes(send, 200, headers, proof.encode())
                return
            if path == "/log/keys":
                document = orjson.dumps(await asyncio.to_thread(_keys, broker))
                headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
                await asgi.send_bytes(send, 200, headers, document)
                return
            level, n, width = _tile(path)
            data = await asyncio.to_thread(broker.tree.tile, level, n, width)
        except Exception as error:  # noqa: BLE001  the one table decides what is shown
            await asgi.send_shown(send, errors.problem(error, broker.new_request_id(), broker.rules.issuer))
            return
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"cache-control", b"public, max-age=31536000, immutable"),
        ]
        await asgi.send_bytes(send, 200, headers, data)

    return answer


async def _receipt(broker: Broker, index: int) -> str:
    """The proof of a record, as soon as a checkpoint covers it: what is durable is under one in a second.

    Raises:
        NotFound: no such record, or none yet.
    """
    if index < broker.audit.size:
        for _ in range(_TRIES):
            if index < broker.tree.covered:
                break
            await asyncio.sleep(_BETWEEN_TRIES_S)
    return await asyncio.to_thread(trail.receipt_proof, broker.tree, index)


def _keys(broker: Broker) -> dict[str, object]:
    """What a verifier needs to go from one key of the log to another (`broker.formats.succession`)."""
    return {"key": broker.log_key, "successions": broker.tree.successions()}


def _tile(path: str) -> tuple[int, int, int]:
    """Level, index and width of a tile's path: the index in groups of three digits, each number in one spelling."""
    match = _TILE.fullmatch(path)
    if match is None:
        raise NotFound("There is no such tile. See C2SP tlog-tiles for the paths.")
    level, groups, width = match.groups()
    wide = int(width) if width is not None else _FULL
    if width is not None and wide >= _FULL:
        raise NotFound("There is no such tile. See C2SP tlog-tiles for the paths.")
    return int(level), int(groups.replace("x", "").replace("/", "")), wide
