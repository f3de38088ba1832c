"""The empty route: what a request costs before anything is done with it. A part of every floor.

The same server as `broker serve`, set up alike, with an application that reads the body and answers a few bytes.
"""

from __future__ import annotations

import gc
import socket
from typing import Any

import uvicorn

from broker.web.protocol import BoundedProtocol
from tests.bench.processes import end_with_parent, tell

_BODY = b'{"ok":true}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]


async def app(_scope: Any, receive: Any, send: Any) -> None:
    """Reads everything, does nothing, answers 200."""
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


def serve() -> None:
    """Listens on a free port of loopback, and says which."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    listening.listen(2048)
    tell(port=listening.getsockname()[1])
    gc.collect()
    gc.freeze()
    server.run(sockets=[listening])


if __name__ == "__main__":
    end_with_parent()
    serve()
