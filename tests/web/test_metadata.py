"""What the broker publishes about itself, from its configured origin: RFC 8414 metadata, RFC 9728 resources, keys."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url

from broker.formats import jwk
from broker.tokens import metadata
from broker.tokens.issue import Audience, TokenRules
from tests.tokens.scene import Scene, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVER = "/.well-known/oauth-authorization-server"
PATHS = [
    SERVER,
    "/.well-known/openid-configuration",
    "/.well-known/jwks.json",
    "/.well-known/oauth-protected-resource/openai/v1",
    "/.well-known/oauth-protected-resource/anthropic/v1",
    "/.well-known/oauth-protected-resource/api/v1",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


async def test_the_metadata_names_what_there_is(scene: Scene) -> None:
    """RFC 8414 §2: issuer, endpoints, grants, methods and algorithms, each as the broker really has it."""
    document = (await scene.http.get(SERVER)).json()
    assert document["issuer"] == scene.url
    assert document["token_endpoint"] == f"{scene.url}/token"
    assert document["jwks_uri"] == f"{scene.url}/.well-known/jwks.json"
    assert document["grant_types_supported"] == [
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "client_credentials",
    ]
    assert document["response_types_supported"] == []
    assert document["token_endpoint_auth_methods_supported"] == ["none", "private_key_jwt"]
    assert document["dpop_signing_alg_values_supported"] == ["ES256", "EdDSA"]
    assert (await scene.http.get("/.well-known/openid-configuration")).json() == document


async def test_the_metadata_is_where_rfc_8414_puts_it(scene: Scene) -> None:
    """RFC 8414 §3.1: the well-known path before the issuer's (empty) path, as Authlib computes it."""
    assert get_well_known_url(scene.url, external=True) == scene.url + SERVER


async def test_authlib_finds_nothing_wrong_with_the_metadata() -> None:
    """Authlib's validator passes every member for an https origin; it takes no empty list of response types.

    RFC 8414 §2 requires `response_types_supported`, and without an authorization endpoint there is none to list.
    """
    issuer = "https://broker.example"
    rules = TokenRules(issuer, 300, 60, False, {f"{issuer}/api/v1": Audience(f"{issuer}/api/v1", "api")})
    document = AuthorizationServerMetadata(metadata.authorization_server(rules))
    with pytest.raises(ValueError, match="response_types_supported"):
        document.validate()
    document["response_types_supported"] = ["none"]
    document.validate()


async def test_an_issuer_that_metadata_cannot_name_is_noticed() -> None:
    """RFC 8414 §2: an issuer has no query and no fragment; such a document is never served."""
    with pytest.raises(ValueError, match="issuer"):
        metadata.authorization_server(TokenRules("https://broker.example?x", 300, 60, False))


@pytest.mark.parametrize("resource", ["/openai/v1", "/anthropic/v1", "/api/v1"])
async def test_each_protected_resource_has_its_metadata(scene: Scene, resource: str) -> None:
    """RFC 9728 §3.1, §3.3: the well-known path stands before the resource's, and the document names that resource."""
    answer = await scene.http.get(f"/.well-known/oauth-protected-resource{resource}")
    document = answer.json()
    assert document["resource"] == scene.url + resource
    assert document["authorization_servers"] == [scene.url]
    assert document["bearer_methods_supported"] == ["header"]
    assert document["dpop_signing_alg_values_supported"] == ["ES256", "EdDSA"]
    assert document["resource"] in (await scene.http.get(SERVER)).json()["protected_resources"]


@pytest.mark.parametrize("path", ["/openai/v1/models", "/api/v1/agents"])
async def test_a_challenge_leads_to_the_resources_metadata(scene: Scene, path: str) -> None:
    """RFC 9728 §5.1: the challenge of a 401 names metadata that exists and names the resource."""
    answer = await scene.http.get(path)
    assert answer.status_code == 401
    found = re.search(r'resource_metadata="([^"]+)"', answer.headers["www-authenticate"])
    assert found is not None
    document = (await scene.http.get(found.group(1))).json()
    assert f"{scene.url}{path}".startswith(document["resource"])


async def test_a_resource_without_metadata_is_not_found(scene: Scene) -> None:
    """RFC 9728 §3.1: what is no resource has no document."""
    for path in ("", "/", "/openai", "/openai/v1/models", "/nothing"):
        assert (await scene.http.get(f"/.well-known/oauth-protected-resource{path}")).status_code == 404


async def test_the_key_set_holds_the_key_that_signs(scene: Scene) -> None:
    """RFC 7517 §5: public halves only, each under its RFC 7638 thumbprint as kid, for signatures with ES256."""
    listed = (await scene.http.get("/.well-known/jwks.json")).json()["keys"]
    (current,) = [key for key in listed if key["kid"] == scene.run.broker.keys.current.kid]
    assert set(current) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert (current["kty"], current["crv"], current["alg"], current["use"]) == ("EC", "P-256", "ES256", "sig")
    assert jwk.parse_public(current).thumbprint == current["kid"]


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_published_ignores_the_host_header(scene: Scene, path: str) -> None:
    """OpenFGA #3057: a poisoned Host or X-Forwarded-Host changes no byte of what is published."""
    honest = (await scene.http.get(path)).content
    for lines in (
        (f"GET {path} HTTP/1.1", "host: evil.example"),
        (f"GET {path} HTTP/1.1", "host: evil.example", "x-forwarded-host: evil.example", "x-forwarded-proto: https"),
        (f"GET http://evil.example{path} HTTP/1.1", "host: evil.example"),
        (f"GET {path}?issuer=evil HTTP/1.1", "host: evil.example"),
        (f"GET {path} HTTP/1.0",),
    ):
        answer = await scene.raw(*lines)
        assert answer.partition(b"\r\n\r\n")[2] == honest
        assert b"evil" not in answer


async def test_challenges_ignore_the_host_header(scene: Scene) -> None:
    """A 401 sends nobody to metadata of the attacker's choice."""
    for path in ("/openai/v1/models", "/api/v1/agents"):
        answer = await scene.raw(f"GET {path} HTTP/1.1", "host: evil.example", "x-forwarded-host: evil.example")
        assert answer.startswith(b"HTTP/1.1 401")
        assert b"evil" not in answer
        assert scene.url.encode() in answer
