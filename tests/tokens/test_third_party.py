"""Other people's code at both ends: Authlib gets our tokens, PyJWT verifies them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import jwt
import pytest
import pytest_asyncio
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.clock import SystemClock
from broker.formats import jwk
from broker.settings import Tokens
from tests.build import RULE, Running, es256, running, thumbprint, token_request
from tests.formats.forge import rsa
from tests.tokens.scene import CLIENT, client_spec
from tests.tokens.test_bearer_policy import POLICY

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A broker on the real clock, as other people's code reads it, that takes its token endpoint as audience.

    The client's key is RSA, and a policy permits it a bearer token: Authlib makes no DPoP proofs.
    """
    client = client_spec(None, keys=[jwk.to_members(rsa().public_key())])
    folder = tmp_path_factory.mktemp("broker")
    async with running(folder, clock=SystemClock(), tokens=Tokens(accept_token_endpoint_audience=True)) as found:
        await found.apply(
            found.world(agents={CLIENT: client}, policies={"nightly.cedar": RULE, "bearer.cedar": POLICY})
        )
        yield found


async def test_pyjwt_verifies_our_token_with_our_key_set(run: Running) -> None:
    """RFC 9068 §2: a resource server with a library of its own finds type, key, times and every required claim."""
    key = es256()
    answer = await token_request(run, key=key)
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    published = jwt.PyJWKSet.from_dict((await (await run.client()).get("/.well-known/jwks.json")).json())
    header = jwt.get_unverified_header(token)
    assert header == {"alg": "ES256", "kid": run.broker.keys.current.kid, "typ": "at+jwt"}
    claims = jwt.decode(
        token,
        published[header["kid"]],
        algorithms=["ES256"],
        audience=f"{run.url}/openai/v1",
        issuer=run.url,
        options={"require": ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"]},
    )
    assert claims["exp"] - claims["iat"] == answer.json()["expires_in"] <= 600
    assert claims["sub"] == claims["client_id"] == "nightly"
    assert claims["cnf"] == {"jkt": thumbprint(key)}
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(token, published[header["kid"]], algorithms=["ES256"], audience=f"{run.url}/api/v1")


async def test_every_token_has_an_id_of_its_own(run: Running) -> None:
    """RFC 9068 §2.2: `jti` is unique, in the same second and under the same key."""
    key = es256()
    tokens = [(await token_request(run, key=key)).json()["access_token"] for _ in range(10)]
    ids = {jwt.decode(token, options={"verify_signature": False})["jti"] for token in tokens}
    assert len(ids) == 10


async def test_authlibs_client_gets_a_token(run: Running) -> None:
    """Authlib signs with private_key_jwt for the token endpoint, as many do; under the setting it is let in."""
    async with authlib_client(run, rsa()) as client:
        token = await client.fetch_token(f"{run.url}/token", grant_type="client_credentials")
        assert token["token_type"] == "Bearer"
        answer = await client.get(f"{run.url}/openai/v1/models")
    assert [model["id"] for model in answer.json()["data"]] == ["stand-in-small"]


async def test_authlib_reads_our_errors(run: Running) -> None:
    """A refusal arrives as the library's own OAuth error, with our code and text."""
    async with authlib_client(run, generate_private_key(65537, 2048)) as client:
        with pytest.raises(OAuthError, match="invalid_client: The evidence was not accepted"):
            await client.fetch_token(f"{run.url}/token", grant_type="client_credentials")


def authlib_client(run: Running, key: RSAPrivateKey) -> AsyncOAuth2Client:
    """Authlib's own client for the registered one, with a key."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return AsyncOAuth2Client(CLIENT, pem, token_endpoint_auth_method=PrivateKeyJWT(f"{run.url}/token"))
