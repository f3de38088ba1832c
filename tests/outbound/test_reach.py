"""Connecting to see whether somebody is there: through the same guard as every request, and without a word."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.errors import OutboundFailed, OutboundRefused
from tests.build import free_port
from tests.outbound.test_door import OK, MakeDoor, _certificates, _resolving, connected, door
from tests.outbound.upstream import Upstream

__all__ = ["connected", "door"]


async def test_whoever_is_there_is_named_by_address_and_told_nothing(door: MakeDoor) -> None:
    """No request, no header: the connection is opened and closed."""
    async with Upstream(OK) as upstream:
        found = await door(("127.0.0.1", upstream.port)).reach(f"http://127.0.0.1:{upstream.port}/v1?key=x")
        assert found == "127.0.0.1"
        await asyncio.sleep(0)
    assert upstream.requests == []


async def test_nobody_there_is_a_failure_that_repeats_no_query(door: MakeDoor) -> None:
    """The text names the URL without what may be a secret in it."""
    port = free_port()
    with pytest.raises(OutboundFailed, match="could not be reached") as failed:
        await door(("127.0.0.1", port)).reach(f"http://127.0.0.1:{port}/v1?key=sk-1")
    assert "sk-1" not in failed.value.detail


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/", "http://upstream.example/", "https://user@upstream.example/"]
)
async def test_what_a_request_may_not_reach_this_may_not_either(
    door: MakeDoor, connected: list[tuple[object, ...]], url: str
) -> None:
    """Special-use addresses, plain http, a user in the URL; nothing is connected to."""
    with pytest.raises(OutboundRefused):
        await door().reach(url)
    assert connected == []


async def test_a_name_at_a_private_address_is_refused(door: MakeDoor, connected: list[tuple[object, ...]]) -> None:
    """What the name resolves to is checked, and the checked address is the one that is connected to."""
    resolve, asked = _resolving(["10.0.0.1"])
    with pytest.raises(OutboundRefused, match="special-use"):
        await door(resolve=resolve).reach("https://rebound.example/")
    assert (connected, asked) == ([], [("rebound.example", 443)])


async def test_certificates_are_verified_here_too(door: MakeDoor, tmp_path: Path) -> None:
    """By name and authority; an endpoint that another answers for is not well."""
    authority, tls = _certificates(tmp_path, "upstream.example")
    resolve, _ = _resolving(["127.0.0.1"])
    async with Upstream(OK, tls=tls) as upstream:
        names = (("upstream.example", upstream.port), ("other.example", upstream.port))
        trusting = door(*names, resolve=resolve, extra_ca_file=authority)
        assert await trusting.reach(f"https://upstream.example:{upstream.port}/") == "127.0.0.1"
        with pytest.raises(OutboundFailed, match="is not trusted"):
            await trusting.reach(f"https://other.example:{upstream.port}/")
        with pytest.raises(OutboundFailed, match="is not trusted"):
            await door(*names, resolve=resolve).reach(f"https://upstream.example:{upstream.port}/")


async def test_who_takes_the_connection_and_shakes_no_hands_is_out_of_time(door: MakeDoor) -> None:
    """TLS that is never answered ends with the limit."""
    async with Upstream(OK) as upstream:
        with pytest.raises(OutboundFailed, match="in time"):
            await door(("127.0.0.1", upstream.port)).reach(f"https://127.0.0.1:{upstream.port}/", timeout_s=0.05)
