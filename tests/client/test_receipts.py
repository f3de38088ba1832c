"""Receipts: a client that pinned the log's key takes no token that the log has no record of, whoever signed it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from aiohttp import web

from broker.audit import trail
from broker.client import BrokerAuth, NoReceipt
from broker.demo.server import LoopbackServer
from broker.entropy import new_id, system_entropy
from broker.errors import ConfigurationError, NotFound, ProofInvalid
from broker.formats import access_token, receipt
from broker.formats.note import NoteVerifier
from tests.build import Running, es256, running, thumbprint, token_request
from tests.formats.test_note import OTHER
from tests.serving import http_client


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:
    """A broker with the usual world, whose tree is integrated as in production."""
    async with running(tmp_path, with_jobs=True) as run:
        await run.apply(run.world())
        yield run


async def _lists(run: Running, auth: BrokerAuth, base: str = "") -> int:
    async with http_client(base_url=base or run.url, auth=auth) as client:
        return (await client.get("/openai/v1/models")).status_code


async def test_a_token_with_its_record_in_the_log_is_used(run: Running) -> None:
    """Under the pinned key, and after the log's key was replaced under the old pin as well."""
    pinned = run.broker.log_key
    assert await _lists(run, BrokerAuth(run.url, run.evidence, log_key=pinned + "\n")) == 200
    await run.broker.log_rotation.rotate("test", by="operator:admin", request_id="r", compromised=True)
    for key in (pinned, run.broker.log_key):
        assert await _lists(run, BrokerAuth(run.url, run.evidence, log_key=key)) == 200


def test_a_client_that_blocks_demands_it_too(tmp_path: Path) -> None:
    """The same through the blocking flow."""

    async def played() -> int:
        async with running(tmp_path, with_jobs=True) as run:
            await run.apply(run.world())
            evidence = run.evidence()
            auth = BrokerAuth(run.url, lambda: evidence, log_key=run.broker.log_key)

            def asks() -> int:
                with httpx2.Client(base_url=run.url, auth=auth) as client:
                    return client.get("/openai/v1/models").status_code

            return await asyncio.to_thread(asks)

    assert asyncio.run(played()) == 200


async def test_another_logs_key_discards_every_token(run: Running) -> None:
    """Whoever pinned another key is not served by this broker; nothing is sent with the token."""
    with pytest.raises(NoReceipt, match="Neither the key that you pinned"):
        await _lists(run, BrokerAuth(run.url, run.evidence, log_key=OTHER.vkey))


@pytest.mark.parametrize("key", ["", "x", "example.com/log+00000000+AAAA"])
def test_what_is_no_key_is_refused_at_once(key: str) -> None:
    """With the command that prints one."""
    with pytest.raises(ConfigurationError, match="broker keys show --log"):
        BrokerAuth("https://b.example", lambda: "evidence", log_key=key)


class Thief(LoopbackServer):
    """Has stolen the key that signs tokens and answers in the broker's place; for the log it must ask the broker.

    Args:
        run: the broker that was robbed.
        shows: the receipt that it gives with its tokens; None for none.
    """

    def __init__(self, run: Running, shows: object) -> None:
        super().__init__([web.post("/token", self._token), web.get("/log/{tail:.*}", self._log)])
        self._run = run
        self._shows = shows

    async def _token(self, request: web.Request) -> web.Response:
        run, form = self._run, await request.post()
        now = int(run.clock.now())
        claims = access_token.AccessClaims(
            run.url, "nightly", (f"{run.url}/openai/v1",), "nightly", new_id(system_entropy), now, now + 300,
            jkt=thumbprint(es256()),
        )  # fmt: skip
        assert form["subject_token"]
        key = run.broker.keys.current
        body: dict[str, Any] = {
            "access_token": access_token.mint(claims, key=key.private, kid=key.kid), "token_type": "DPoP",
            "expires_in": 300,
        }  # fmt: skip
        return web.json_response(body if self._shows is None else {**body, "receipt": self._shows})

    async def _log(self, request: web.Request) -> web.Response:
        async with http_client(base_url=self._run.url) as client:
            answer = await client.get(request.path)
        return web.Response(status=answer.status_code, body=answer.content)


async def _honest(run: Running) -> tuple[str, receipt.Receipt]:
    """A token that the broker issued on record, with its receipt."""
    answer = await token_request(run, headers={"Prefer": "respond-async, receipt"})
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"], receipt.parse(answer.json()["receipt"])


async def test_a_token_made_with_a_stolen_key_is_not_taken(run: Running) -> None:
    """It verifies under the published key set and is on no record: no receipt, another token's, one of no record."""
    _, other = await _honest(run)
    shown: list[tuple[object, str]] = [
        (None, "without a receipt"),
        ({"index": "x"}, "without a receipt"),
        (other.to_members(), "of another token"),
        (replace(other, index=0).to_members(), "not"),
        (replace(other, index=10**6).to_members(), "answered 404"),
    ]
    for shows, text in shown:
        async with Thief(run, shows) as thief:
            auth = BrokerAuth(thief.origin, run.evidence, log_key=run.broker.log_key)
            with pytest.raises(NoReceipt, match=text):
                await _lists(run, auth, thief.origin)


async def test_a_receipt_is_given_to_those_who_ask(run: Running) -> None:
    """Nobody else's answer grows by it, and the public proof shows nothing of the record."""
    assert "receipt" not in (await token_request(run)).json()
    token, found = await _honest(run)
    async with http_client(base_url=run.url) as client:
        proof = (await client.get(f"/log/receipt/{found.index}")).text
        assert (await client.get("/log/receipt/999999")).status_code == 404
        assert (await client.get("/log/receipt/01")).status_code == 404
    assert "TokenIssued" not in proof
    assert receipt.check(found, proof, token, NoteVerifier.parse(run.broker.log_key)) > found.index
    with pytest.raises(ProofInvalid, match="of another token"):
        receipt.check(found, proof, token + "x", NoteVerifier.parse(run.broker.log_key))


async def test_a_record_that_issued_no_token_is_no_receipt(run: Running) -> None:
    """Nor is one whose shown group was exchanged, or whose proof is of another place."""
    token, found = await _honest(run)
    pinned = NoteVerifier.parse(run.broker.log_key)
    async with http_client(base_url=run.url) as client:
        proofs = [(await client.get(f"/log/receipt/{index}")).text for index in (found.index, found.index - 1)]
    started = await run.broker.read(_first_record)
    altered = [
        (replace(found, content=found.content.replace('"expires_at_ms":1', '"expires_at_ms":2')), proofs[0]),
        (replace(found, salt=bytes(16)), proofs[0]),
        (replace(found, commitments=found.commitments[32:] + found.commitments[:32]), proofs[0]),
        (found, proofs[1]),
        (replace(found, index=found.index - 1), proofs[1]),
    ]
    for shown, proof in altered:
        with pytest.raises(ProofInvalid):
            receipt.check(shown, proof, token, pinned)
    async with http_client(base_url=run.url) as client:
        first = (await client.get("/log/receipt/0")).text
    with pytest.raises(ProofInvalid, match="not of an issued token"):
        receipt.check(started, first, token, pinned)


def _first_record(session: Any) -> receipt.Receipt:
    row = session.connection().exec_driver_sql("SELECT entry, commitments, groups FROM records WHERE idx = 0").one()
    groups = orjson.loads(row[2])
    salt, content = groups["what"]
    return receipt.Receipt(0, bytes(row[0]), bytes(row[1]), bytes.fromhex(salt), content)


async def test_an_erased_record_gives_no_receipt(run: Running) -> None:
    """Nothing is made up for what is gone."""
    with pytest.raises(NotFound):
        await run.broker.read(lambda session: trail.receipt(session, 10**6))
