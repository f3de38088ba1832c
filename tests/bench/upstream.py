"""The bare hop: the POST that a call makes to its provider, with the same client library and nothing around it.

A process that takes orders `{"port", "body", "headers", "requests", "callers"}` and answers what they cost.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import Any

import aiohttp
import uvloop

from tests.bench.processes import tell


async def post(order: dict[str, Any]) -> dict[str, float]:
    """Posts the same body so many times from so many callers, and reads each answer as it arrives."""
    url = f"http://127.0.0.1:{order['port']}/v1/chat/completions"
    body, headers = str(order["body"]).encode(), dict(order["headers"])
    connector = aiohttp.TCPConnector(limit=1024, use_dns_cache=False)
    skipped = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=skipped,
    ) as session:

        async def caller(count: int) -> None:
            for _ in range(count):
                async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                    if answer.status != 200:
                        raise RuntimeError(f"the provider answered {answer.status}")
                    while await answer.content.readany():
                        pass

        await asyncio.gather(*(caller(2) for _ in range(order["callers"])))
        gc.collect()
        gc.freeze()
        each = order["requests"] // order["callers"]
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(each) for _ in range(order["callers"])))
        cpu_s, wall_s = time.process_time() - begun_cpu_s, time.perf_counter() - begun_s
    return {"requests": each * order["callers"], "cpu_s": cpu_s, "wall_s": wall_s}


if __name__ == "__main__":
    for line in sys.stdin:
        tell(**uvloop.run(post(json.loads(line))))
