"""RFC 8725 §3, JSON Web Token best practices: one test a countermeasure, over HTTP, where tokens come in.

| § | countermeasure | here |
| --- | --- | --- |
| 3.1 | algorithm verification | test_3_1 |
| 3.2 | appropriate algorithms | test_3_2 |
| 3.3 | every cryptographic operation is validated | test_3_3; nested tokens are refused whole |
| 3.4 | cryptographic inputs are validated | test_3_4 |
| 3.5 | keys have sufficient entropy | test_3_5; there are no shared secrets, so none is weak |
| 3.6 | no compression of encryption inputs | test_3_6; nothing is encrypted, and `zip` is refused |
| 3.7 | UTF-8 | test_3_7 |
| 3.8 | issuer and subject are validated | test_3_8 |
| 3.9 | audience is used and validated | test_3_9 |
| 3.10 | received claims are not trusted | test_3_10 |
| 3.11 | explicit typing | test_3_11 |
| 3.12 | mutually exclusive rules for different kinds | test_3_12 |

The same attacks on each verifier alone, in every variant, are in tests/formats/test_jwt_attacks.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.formats import jwk
from tests.build import es256
from tests.formats.forge import p384, part, raw_signature, resigned, rsa
from tests.formats.forge import token as forged
from tests.tokens.scene import CLIENT, OTHER_CLIENT, Scene, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


async def refused_as_client(scene: Scene, *assertions: str) -> None:
    """Each of these assertions authenticates nobody."""
    for assertion in assertions:
        assert error_of(await scene.credentials(assertion)) == (401, "invalid_client"), assertion


async def refused_as_token(scene: Scene, *tokens: str) -> None:
    """Each of these tokens opens nothing at the gateway."""
    for token in tokens:
        answer = await scene.call(token, es256())
        assert answer.status_code == 401, token


async def test_3_1_the_key_decides_the_algorithm(scene: Scene) -> None:
    """§3.1: no "none", no HMAC under the public key, no other algorithm than the one the key is for."""
    public = scene.keys[CLIENT].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signing_input = scene.assertion(header={"alg": "HS256"}).rpartition(".")[0]
    mac = hmac.new(public, signing_input.encode(), hashlib.sha256).digest()
    await refused_as_client(
        scene,
        resigned(scene.assertion(header={"alg": "none"}), b""),
        f"{signing_input}.{part(mac)}",
        scene.assertion(header={"alg": "RS256"}, key=rsa()),
        scene.assertion(header={"alg": "ES384"}, key=p384()),
    )


async def test_3_2_only_asymmetric_signatures_are_taken_and_made(scene: Scene) -> None:
    """§3.2: our own tokens are ES256; RSA with PKCS #1 v1.5 encryption, "dir" and "none" are nowhere."""
    answer = await scene.exchange()
    header = json.loads(base64.urlsafe_b64decode(answer.json()["access_token"].split(".")[0] + "=="))
    assert header["alg"] == "ES256"
    published = (await scene.http.get("/.well-known/oauth-authorization-server")).json()
    for name in ("token_endpoint_auth_signing_alg_values_supported", "dpop_signing_alg_values_supported"):
        assert set(published[name]) <= {"ES256", "ES384", "EdDSA", "RS256", "PS256"}
    await refused_as_client(scene, *(scene.assertion(header={"alg": alg}) for alg in ("dir", "RSA1_5", "HS512")))


async def test_3_3_a_token_inside_a_token_is_no_token(scene: Scene) -> None:
    """§3.3: a good assertion wrapped by a stranger, and a stranger's wrapped by the client, are refused whole."""
    inner = scene.assertion()
    claims = inner.split(".")[1]
    header = {"alg": "ES256", "typ": "JWT", "cty": "JWT"}
    await refused_as_client(
        scene,
        forged(header, inner.encode(), es256()),
        forged(header, inner.encode(), scene.keys[CLIENT]),
        f"{inner}.{inner}",
        f"{part(header)}.{claims}.{inner.split('.')[2]}",
    )


async def test_3_4_keys_and_signatures_are_checked_as_numbers(scene: Scene) -> None:
    """§3.4: a point off the curve, a zero signature, DER, and an invalid key in a proof are refused."""
    good = scene.assertion()
    await refused_as_client(scene, resigned(good, bytes(64)), resigned(good, b"\xff" * 64), resigned(good, b""))
    payload = {"jti": "j" * 22, "htm": "POST", "htu": f"{scene.url}/token", "iat": int(scene.clock.now())}
    key = es256()
    members = jwk.to_members(key.public_key())
    off_curve = {**members, "y": members["x"]}
    for wrong in (off_curve, {**members, "x": "AA"}, {**members, "crv": "P-384"}, {**members, "d": members["x"]}):
        proof = forged({"typ": "dpop+jwt", "alg": "ES256", "jwk": wrong}, payload, key)
        assert error_of(await scene.exchange(proof=proof)) == (400, "invalid_dpop_proof")


async def test_3_5_small_keys_are_not_registered(scene: Scene) -> None:
    """§3.5: an RSA key below 2048 bits, or a shared secret, is refused where keys are registered."""
    spec = {"owner": "o", "purpose": "p"}
    secret = {"kty": "oct", "k": part(b"password")}
    for members in (jwk.to_members(rsa(1024).public_key()), secret):
        manifest = {"agents": {"weak": {**spec, "keys": [members]}}}
        assert (await scene.admin.post("/api/v1/changes", json=manifest)).status_code == 422
    assert "weak" not in scene.run.broker.directory.agents


async def test_3_6_nothing_is_unpacked(scene: Scene) -> None:
    """§3.6: a token that says it is compressed is refused before anything is decompressed."""
    await refused_as_client(scene, scene.assertion(header={"zip": "DEF"}))


async def test_3_7_json_is_utf_8(scene: Scene) -> None:
    """§3.7: header and claims in UTF-16, Latin-1 or with a byte order mark are no JSON here."""
    claims = json.dumps({"iss": CLIENT, "sub": CLIENT, "aud": scene.url, "jti": "é"}, ensure_ascii=False)
    header = {"alg": "ES256", "typ": "JWT"}
    for encoding in ("utf-16", "utf-32-le", "latin-1", "utf-8-sig"):
        await refused_as_client(scene, forged(header, claims.encode(encoding), scene.keys[CLIENT]))


async def test_3_8_issuer_and_subject_belong_to_the_key(scene: Scene) -> None:
    """§3.8: one client's key does not speak for another, nor a platform's key for another issuer."""
    await refused_as_client(
        scene,
        scene.assertion(OTHER_CLIENT, key=scene.keys[CLIENT]),
        scene.assertion(sub=OTHER_CLIENT),
        scene.assertion(iss=scene.run.platform.issuer),
        scene.run.evidence(),
    )
    forged_issuer = scene.run.platform.identity_token("job-7", scene.url, {"iss": CLIENT})
    assert error_of(await scene.exchange(forged_issuer)) == (400, "invalid_request")


async def test_3_9_a_token_is_for_one_audience(scene: Scene) -> None:
    """§3.9: evidence and assertions for another party are refused, and our tokens are refused at another resource."""
    elsewhere = scene.run.platform.identity_token("job-7", "https://elsewhere.example")
    assert error_of(await scene.exchange(elsewhere)) == (400, "invalid_request")
    await refused_as_client(scene, scene.assertion(aud="https://elsewhere.example"))
    key = es256()
    token = (await scene.exchange(key=key)).json()["access_token"]
    proof = scene.proof(key, method="GET", url=f"{scene.url}/api/v1/whoami", access_token=token)
    answer = await scene.http.get("/api/v1/whoami", headers={"authorization": f"DPoP {token}", "dpop": proof})
    assert answer.status_code == 401


async def test_3_10_what_a_header_says_leads_nowhere(scene: Scene) -> None:
    """§3.10: `kid` is compared and never opened or asked for; `jku`, `x5u` and `jwk` are refused and not fetched."""
    key = es256()
    before = dict(scene.run.platform.fetches)
    paths = ("../../../../dev/null", "x' UNION SELECT 'x' --", f"{scene.run.platform.issuer}/jwks", "|id")
    await refused_as_client(
        scene,
        *(scene.assertion(header={"kid": kid}, key=key) for kid in paths),
        scene.assertion(header={"jku": f"{scene.run.platform.issuer}/jwks"}, key=key),
        scene.assertion(header={"x5u": f"{scene.run.platform.issuer}/jwks"}, key=key),
        scene.assertion(header={"jwk": jwk.to_members(key.public_key())}, key=key),
    )
    assert scene.run.platform.fetches == before


async def test_3_11_types_are_explicit(scene: Scene) -> None:
    """§3.11: an access token without `typ: at+jwt`, and a proof without `typ: dpop+jwt`, are refused."""
    ring = scene.run.broker.keys.current
    now = int(scene.clock.now())
    claims = {
        "iss": scene.url, "sub": CLIENT, "client_id": CLIENT, "aud": f"{scene.url}/openai/v1", "jti": "j", "iat": now,
        "exp": now + 60,
    }  # fmt: skip
    for typ in ("JWT", "dpop+jwt", "", None):
        signed = forged({"alg": "ES256", "kid": ring.kid, "typ": typ}, claims, ring.private)
        answer = await scene.http.get("/openai/v1/models", headers={"authorization": f"Bearer {signed}"})
        assert answer.status_code == 401
        assert "invalid_token" in answer.headers["www-authenticate"]
    key = es256()
    payload = {"jti": "j" * 22, "htm": "POST", "htu": f"{scene.url}/token", "iat": now}
    for typ in ("JWT", "at+jwt", None):
        proof = forged({"typ": typ, "alg": "ES256", "jwk": jwk.to_members(key.public_key())}, payload, key)
        assert error_of(await scene.exchange(proof=proof)) == (400, "invalid_dpop_proof")


async def test_3_12_no_kind_of_token_passes_for_another(scene: Scene) -> None:
    """§3.12: access token, proof, assertion and evidence, each honest, are refused everywhere but in their place."""
    key = es256()
    access = (await scene.exchange(key=key)).json()["access_token"]
    proof, assertion, evidence = scene.proof(key), scene.assertion(), scene.run.evidence()
    await refused_as_client(scene, access, proof, evidence)
    await refused_as_token(scene, proof, assertion, evidence)
    for text in (access, proof):
        assert error_of(await scene.exchange(text)) == (400, "invalid_request")
    for text in (access, assertion, evidence):
        assert error_of(await scene.exchange(proof=text)) == (400, "invalid_dpop_proof")


async def test_the_hand_made_tokens_of_this_file_are_good(scene: Scene) -> None:
    """What these tests break is taken when it is whole, so that they refuse for the reason they name."""
    assert (await scene.credentials(scene.assertion())).status_code == 200
    key = es256()
    payload = {"jti": "k" * 22, "htm": "POST", "htu": f"{scene.url}/token", "iat": int(scene.clock.now())}
    proof = forged({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk.to_members(key.public_key())}, payload, key)
    assert (await scene.exchange(proof=proof)).status_code == 200
    signing_input = scene.assertion().rpartition(".")[0]
    assert (
        await scene.credentials(f"{signing_input}.{part(raw_signature(signing_input, scene.keys[CLIENT]))}")
    ).is_success
