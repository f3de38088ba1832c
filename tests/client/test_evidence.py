"""Evidence, registered keys and proof keys: what a credential is asked for with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from broker.client import BrokerAuth, EvidenceUnavailable
from broker.errors import ConfigurationError
from broker.formats import evidence_jwt, jwk
from tests.client.conftest import MakeCaller
from tests.client.stand_in_broker import EVIDENCE, StandInBroker
from tests.fakes import FakeClock


def _pem(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))


async def test_an_evidence_file_is_read_again_at_every_renewal(
    caller: MakeCaller, broker: StandInBroker, clock: FakeClock, tmp_path: Path
) -> None:
    """What the platform puts there later is what is shown then; surrounding white space is no part of it."""
    file = tmp_path / "token"
    file.write_text("first.token.x\n")
    one = caller(file)
    await one.send(broker.url)
    file.write_text("second.token.x")
    await one.send(broker.url)
    clock.advance(200)
    await one.send(broker.url)
    assert [asked.form["subject_token"] for asked in broker.tokens] == ["first.token.x", "second.token.x"]


async def test_evidence_may_come_from_an_async_function(caller: MakeCaller, broker: StandInBroker) -> None:
    """An async client waits for it; a blocking one says that it cannot, before anything is sent."""

    async def evidence() -> str:
        return EVIDENCE

    one = caller(evidence)
    if one.blocks:
        with pytest.raises(EvidenceUnavailable, match="AsyncClient"):
            await one.send(broker.url)
        assert broker.tokens == []
    else:
        assert (await one.send(broker.url)).status_code == 200


@pytest.mark.parametrize("kind", ["missing", "empty", "raises", "nothing"])
async def test_evidence_that_is_not_there_says_so(
    caller: MakeCaller, broker: StandInBroker, tmp_path: Path, kind: str
) -> None:
    """A missing or empty file, an error and an empty answer are told to the person, and the lock is free afterwards."""
    (tmp_path / "empty").write_text(" \n")

    def raising() -> str:
        raise RuntimeError("secret detail")

    sources: dict[str, Any] = {
        "missing": tmp_path / "missing",
        "empty": tmp_path / "empty",
        "raises": raising,
        "nothing": lambda: None,
    }
    one = caller(sources[kind])
    for _ in range(2):
        with pytest.raises(EvidenceUnavailable) as caught:
            await one.send(broker.url)
        assert "secret detail" not in caught.value.detail
    assert broker.tokens == []


async def test_missing_evidence_does_not_stop_a_good_token(
    caller: MakeCaller, broker: StandInBroker, clock: FakeClock, tmp_path: Path
) -> None:
    """An early renewal without evidence is a renewal that failed: the request goes on with the old token."""
    file = tmp_path / "token"
    file.write_text(EVIDENCE)
    one = caller(file)
    await one.send(broker.url)
    file.unlink()
    clock.advance(200)
    assert (await one.send(broker.url)).status_code == 200


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("make", [lambda: ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate])
async def test_a_registered_key_signs_a_fresh_assertion_each_time(
    caller: MakeCaller, broker: StandInBroker, clock: FakeClock, tmp_path: Path, as_file: bool, make: Any
) -> None:
    """private_key_jwt: for the issuer and nobody else, a minute long, never the same twice, nonce retries included."""
    key = make()
    (tmp_path / "key.pem").write_bytes(_pem(key))
    broker.faults.token_nonce = "token-1"
    one = caller(None, client_id="batch", key=tmp_path / "key.pem" if as_file else key, kid="k1")
    assert (await one.send(broker.url)).status_code == 200
    public = jwk.from_key(key.public_key(), kid="k1")
    seen = set()
    for asked in broker.tokens:
        assert asked.form["grant_type"] == "client_credentials"
        assert asked.form["client_id"] == "batch"
        assert asked.form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        claims = evidence_jwt.verify(
            asked.form["client_assertion"],
            keys=[public],
            algorithms=evidence_jwt.ASYMMETRIC,
            issuer="batch",
            audience=broker.origin,
            now=clock.now(),
            leeway_s=0,
            max_lifetime_s=60,
        )
        assert (claims["sub"], claims["aud"]) == ("batch", broker.origin)
        seen.add(claims["jti"])
    assert len(seen) == 2
    assert broker.tokens[0].jkt != public.thumbprint


async def test_clients_of_one_process_prove_with_one_key(caller: MakeCaller, broker: StandInBroker) -> None:
    """One platform token used by two clients is shown with the same key; a key of one's own replaces it."""
    own = Ed25519PrivateKey.generate()
    for one in (caller(), caller(), caller(proof_key=own)):
        assert (await one.send(broker.url)).status_code == 200
    first, second, third = (asked.jkt for asked in broker.tokens)
    assert first == second != third
    assert third == jwk.from_key(own.public_key()).thumbprint


async def test_a_proof_key_may_be_a_file(caller: MakeCaller, broker: StandInBroker, tmp_path: Path) -> None:
    """Processes that share evidence share the key by its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "proof.pem").write_bytes(_pem(key))
    await caller(proof_key=tmp_path / "proof.pem").send(broker.url)
    assert broker.tokens[0].jkt == jwk.from_key(key.public_key()).thumbprint


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"client_id": "a"},
        {"key": Ed25519PrivateKey.generate()},
        {"evidence": lambda: EVIDENCE, "client_id": "a", "key": Ed25519PrivateKey.generate()},
        {"evidence": lambda: EVIDENCE, "key": Ed25519PrivateKey.generate()},
    ],
)
def test_evidence_and_registered_key_exclude_each_other(options: dict[str, Any]) -> None:
    """One way of showing who one is, and that one whole."""
    with pytest.raises(ConfigurationError, match="either evidence, or client_id"):
        BrokerAuth("https://broker.example", **options)


def test_keys_that_cannot_sign_are_refused_at_once(tmp_path: Path) -> None:
    """Another curve, RSA, a password, no PEM and no file: all are told when the auth is made, naming the file."""
    weak: dict[str, bytes] = {
        "p384.pem": _pem(ec.generate_private_key(ec.SECP384R1())),
        "rsa.pem": _pem(rsa.generate_private_key(65537, 2048)),
        "locked.pem": _pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"x")),
        "text.pem": b"no key",
    }
    for name, content in weak.items():
        (tmp_path / name).write_bytes(content)
    for name in [*weak, "missing.pem"]:
        with pytest.raises(ConfigurationError, match=name):
            BrokerAuth("https://broker.example", lambda: EVIDENCE, proof_key=tmp_path / name)
    with pytest.raises(ConfigurationError, match="Ed25519 or EC"):
        BrokerAuth("https://broker.example", lambda: EVIDENCE, proof_key=ec.generate_private_key(ec.SECP384R1()))


@pytest.mark.parametrize(
    "url", ["broker.example", "ftp://broker.example", "https://", "https://u:p@broker.example", "https://b.example?a=b",
            "https://b.example#x", "https://b.example:99999", ""],
)  # fmt: skip
def test_a_broker_url_must_be_one(url: str) -> None:
    """Anything but an absolute web URL without extras is refused when the auth is made."""
    with pytest.raises(ConfigurationError):
        BrokerAuth(url, lambda: EVIDENCE)


def test_plain_http_is_for_loopback() -> None:
    """Evidence does not cross a network in the clear, unless somebody says that something else encrypts."""
    for local in ("http://127.0.0.1:8420", "http://localhost:8420/", "http://[::1]:8420"):
        BrokerAuth(local, lambda: EVIDENCE)
    for remote in ("http://broker.example", "http://10.0.0.1:8420", "http://localhost.example"):
        with pytest.raises(ConfigurationError, match="https"):
            BrokerAuth(remote, lambda: EVIDENCE)
        BrokerAuth(remote, lambda: EVIDENCE, allow_plain_http=True)
