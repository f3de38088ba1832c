"""`POST /token` over HTTP: whatever is wrong with a request gets the error its specification names, and a way out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import orjson
import pytest
import pytest_asyncio

from tests.tokens.scene import ABSENT, EXCHANGE, JWT, JWT_BEARER, Scene, claims_of, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


@pytest.mark.parametrize(
    ("changed", "status", "error", "says"),
    [
        # RFC 6749 §5.2
        ({"grant_type": ABSENT}, 400, "invalid_request", "grant_type"),
        ({"grant_type": ""}, 400, "invalid_request", "grant_type"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", "client_credentials"),
        ({"grant_type": "authorization_code"}, 400, "unsupported_grant_type", "token-exchange"),
        ({"grant_type": "Client_Credentials"}, 400, "unsupported_grant_type", "client_credentials"),
        ({"grant_type": "'\" OR 1=1 --\\"}, 400, "unsupported_grant_type", "client_credentials"),
        ({"client_secret": "hunter2"}, 400, "invalid_request", "private_key_jwt"),
        ({"scope": "openid"}, 400, "invalid_scope", "scope"),
        # RFC 8693 §2.1, §2.2.2
        ({"subject_token": ABSENT}, 400, "invalid_request", "subject_token"),
        ({"subject_token": ""}, 400, "invalid_request", "subject_token"),
        ({"subject_token": "not a token"}, 400, "invalid_request", "subject token"),
        ({"subject_token": "a.b.c"}, 400, "invalid_request", "subject token"),
        ({"subject_token": "é.é.é"}, 400, "invalid_request", "subject token"),
        ({"subject_token": "x" * 20_000}, 400, "invalid_request", "16384"),
        ({"subject_token_type": ABSENT}, 400, "invalid_request", "subject_token_type"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, 400, "invalid_request", "token-type:jwt"),
        ({"subject_token_type": "JWT"}, 400, "invalid_request", "token-type:jwt"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, 400, "invalid_request", "access"),
        ({"actor_token": "a.b.c"}, 400, "invalid_request", "actor_token"),
        ({"actor_token_type": JWT}, 400, "invalid_request", "actor_token"),
        # RFC 7521 §4.2
        ({"client_assertion": "a.b.c"}, 400, "invalid_request", "client_assertion_type"),
        (
            {"client_assertion": "a.b.c", "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2"},
            400,
            "invalid_request",
            "jwt-bearer",
        ),
        (
            {"client_assertion": "a.b.c", "client_assertion_type": JWT_BEARER},
            400,
            "invalid_request",
            "subject_token alone",
        ),
        # RFC 8707 §2, RFC 8693 §2.2.2
        ({"resource": "https://elsewhere.example/"}, 400, "invalid_target", "not offered"),
        ({"resource": "no url"}, 400, "invalid_target", "not offered"),
        ({"audience": "somebody"}, 400, "invalid_target", "not offered"),
        ({"resource": "{url}/openai/v1/"}, 400, "invalid_target", "not offered"),
        ({"resource": "{url}/openai/v1#x"}, 400, "invalid_target", "not offered"),
        ({"resource": "{url}/openai/v1", "audience": "{url}/api/v1"}, 400, "invalid_target", "one resource"),
        ({"resource": "{url}/api/v1"}, 400, "invalid_target", "No policy permits"),
    ],
    ids=str,
)
async def test_a_wrong_parameter_gets_its_error(
    scene: Scene, changed: dict[str, str], status: int, error: str, says: str
) -> None:
    """Each missing, unknown or malformed parameter: its code, a text that says what to do, and no token."""
    given: dict[str, Any] = {name: value.replace("{url}", scene.url) for name, value in changed.items()}
    evidence = given.pop("subject_token", None)
    answer = await scene.exchange(evidence, **given)
    assert error_of(answer) == (status, error)
    assert says in answer.json()["error_description"]


@pytest.mark.parametrize(
    "name",
    ["grant_type", "subject_token", "subject_token_type", "scope", "client_id", "requested_token_type", "unknown"],
)
async def test_a_parameter_sent_twice_is_refused(scene: Scene, name: str) -> None:
    """RFC 6749 §3.2: parameters MUST NOT be included more than once, not even with the same value or without one."""
    fields = {"grant_type": EXCHANGE, "subject_token": scene.run.evidence(), "subject_token_type": JWT}
    value = fields.get(name, "x")
    for second in (value, "", "other"):
        pairs = [*(item for item in fields.items() if item[0] != name), (name, value), (name, second)]
        answer = await scene.post(pairs)
        assert error_of(answer) == (400, "invalid_request")
        assert name in answer.json()["error_description"]
        assert "twice" in answer.json()["error_description"]


async def test_the_name_of_a_parameter_is_shown_only_as_printable_text(scene: Scene) -> None:
    """RFC 6749 §5.2: a caller's own bytes never make the error text something else."""
    answer = await scene.post([("grant_type", EXCHANGE), *[('"\\\r\nx\u20ac<b>', "1")] * 2])
    assert error_of(answer) == (400, "invalid_request")
    assert "x<b>" in answer.json()["error_description"]


async def test_a_resource_may_be_repeated_if_it_is_the_same_one(scene: Scene) -> None:
    """RFC 8707 §2: `resource` may come several times; the same one twice is one, two are refused."""
    gateway, api = f"{scene.url}/openai/v1", f"{scene.url}/api/v1"
    fields = [("grant_type", EXCHANGE), ("subject_token", scene.run.evidence()), ("subject_token_type", JWT)]
    same = await scene.post([*fields, ("resource", gateway), ("resource", gateway), ("audience", gateway)])
    assert claims_of(same)["aud"] == gateway
    fields[1] = ("subject_token", scene.run.evidence())
    two = await scene.post([*fields, ("resource", gateway), ("resource", api)])
    assert error_of(two) == (400, "invalid_target")


async def test_parameters_without_a_value_are_absent_and_unknown_ones_ignored(scene: Scene) -> None:
    """RFC 6749 §3.2: an empty parameter is as if it were omitted, an unrecognised one is ignored."""
    answer = await scene.exchange(
        scope="", resource="", audience="", client_id="", client_secret="", requested_token_type="", unheard_of="x"
    )
    assert claims_of(answer)["sub"] == "nightly"


@pytest.mark.parametrize(
    "body",
    [
        b"grant_type",
        b"grant_type=%ff%fe",
        b"grant_type=\xff",
        b"&&&=",
        b"grant_type=x;grant_type=y&z",
    ],
    ids=str,
)
async def test_a_body_that_is_no_form_is_refused(scene: Scene, body: bytes) -> None:
    """Bytes that are not ASCII, not UTF-8 once decoded, no pairs at all, or too many of them."""
    assert error_of(await scene.post(body)) == (400, "invalid_request")


async def test_a_form_has_forty_parameters_at_most(scene: Scene) -> None:
    """Forty pass, the rest of a good request among them; one more is refused."""
    more: dict[str, Any] = {f"x{n}": "1" for n in range(37)}
    assert (await scene.exchange(**more)).status_code == 200
    answer = await scene.exchange(**more, x37="1")
    assert error_of(answer) == (400, "invalid_request")
    assert "at most 40" in answer.json()["error_description"]


async def test_an_empty_body_is_refused(scene: Scene) -> None:
    """The first thing that is missing is named."""
    answer = await scene.post(b"")
    assert error_of(answer) == (400, "invalid_request")
    assert "grant_type" in answer.json()["error_description"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data; boundary=x", "text/plain", "", ABSENT]
)
async def test_another_content_type_is_refused(scene: Scene, content_type: str) -> None:
    """RFC 6749 §3.2 takes application/x-www-form-urlencoded; nothing guesses at another format."""
    fields = {"grant_type": EXCHANGE, "subject_token": scene.run.evidence(), "subject_token_type": JWT}
    for body in (urlencode(fields).encode(), orjson.dumps(fields)):
        answer = await scene.post(body, headers={"content-type": content_type})
        assert error_of(answer) == (400, "invalid_request")
        assert "x-www-form-urlencoded" in answer.json()["error_description"]


async def test_a_charset_and_capitals_in_the_content_type_are_fine(scene: Scene) -> None:
    """Media types compare without case, and may have parameters."""
    answer = await scene.exchange(headers={"content-type": "Application/X-WWW-Form-Urlencoded; charset=UTF-8"})
    assert answer.status_code == 200


async def test_a_large_body_is_refused_before_it_is_read(scene: Scene) -> None:
    """64 KiB pass, one byte more is 413; what is announced counts, and so does what comes without announcement."""
    start = urlencode({"grant_type": "x", "padding": ""}).encode()
    full = start + b"a" * (64 * 1024 - len(start))
    assert error_of(await scene.post(full)) == (400, "unsupported_grant_type")
    assert error_of(await scene.post(full + b"a")) == (413, "invalid_request")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield b"a" * 1024

    answer = await scene.http.post("/token", content=chunks(), headers=FORM)
    assert error_of(answer) == (413, "invalid_request")
    assert "65536" in answer.json()["error_description"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
async def test_another_method_is_405(scene: Scene, method: str) -> None:
    """RFC 6749 §3.2: the client MUST use POST, and the answer says so."""
    answer = await scene.http.request(method, "/token")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/token/", "/TOKEN", "//token", "/token/x", "/token;x"])
async def test_only_the_exact_path_is_the_token_endpoint(scene: Scene, path: str) -> None:
    """No second spelling of the path, under which a filter in front would not know it."""
    answer = await scene.post({"grant_type": "client_credentials"}, path=path)
    assert answer.status_code == 404


async def test_parameters_in_the_url_are_never_read(scene: Scene) -> None:
    """RFC 6749 §2.3.1: credentials in the URI end in logs; they are not taken from there."""
    query = urlencode({"grant_type": EXCHANGE, "subject_token": scene.run.evidence(), "subject_token_type": JWT})
    answer = await scene.post(b"", path=f"/token?{query}")
    assert error_of(answer) == (400, "invalid_request")
    assert "grant_type" in answer.json()["error_description"]


@pytest.mark.parametrize(
    ("assertion", "says"),
    [(ABSENT, "client_assertion"), ("", "client_assertion"), ("a.b.c", "not accepted"), ("x", "not accepted")],
)
async def test_a_client_that_is_not_authenticated_is_401_with_a_challenge(
    scene: Scene, assertion: str, says: str
) -> None:
    """RFC 6749 §5.2: `invalid_client` with 401 and WWW-Authenticate (RFC 9110 §15.5.2)."""
    answer = await scene.credentials(assertion)
    assert error_of(answer) == (401, "invalid_client")
    assert answer.headers["www-authenticate"]
    assert says in answer.json()["error_description"]


@pytest.mark.parametrize("value", ["Basic YmF0Y2g6aHVudGVyMg==", "Bearer x", "DPoP x", ""])
async def test_a_second_way_to_authenticate_is_refused(scene: Scene, value: str) -> None:
    """RFC 6749 §2.3: one method a request. An Authorization header beside good evidence gets no token."""
    for answer in (
        await scene.exchange(headers={"authorization": value}),
        await scene.credentials(headers={"authorization": value}),
    ):
        assert error_of(answer) == (401, "invalid_client")
        assert "www-authenticate" in answer.headers


async def test_a_grant_has_its_whole_answer(scene: Scene) -> None:
    """RFC 6749 §5.1, RFC 8693 §2.2.1, RFC 9449 §5: the members, the headers, and the record to look up."""
    answer = await scene.exchange()
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    members = answer.json()
    assert set(members) == {"access_token", "issued_token_type", "token_type", "expires_in"}
    assert members["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert members["token_type"] == "DPoP"
    assert 0 < members["expires_in"] <= 600
    shown = await scene.admin.get(f"/api/v1/audit/records/{answer.headers['broker-record']}")
    assert shown.json()["kind"] == "TokenIssued"


@pytest.mark.parametrize(
    "lines",
    [
        ("POST /token HTTP/1.1", "host: evil.example"),
        ("POST /token HTTP/1.1", "host: evil.example", "x-forwarded-host: evil.example", "forwarded: host=evil"),
        ("POST /token HTTP/1.1", "host: evil.example", "x-forwarded-proto: https", "x-original-url: /openai/v1/models"),
        ("POST /token HTTP/1.1", "host: "),
        ("POST /token HTTP/1.0",),
        ("POST http://evil.example/token HTTP/1.1", "host: evil.example"),
        ("POST /token?next=//evil.example HTTP/1.1", "host: evil.example:443"),
        ("POST /%74oken HTTP/1.1", "host: evil.example"),
    ],
    ids=" ".join,
)
async def test_the_host_header_never_matters(scene: Scene, lines: tuple[str, ...]) -> None:
    """LiteLLM CVE-2026-49468, OpenFGA #3057: routing, proof and token go by the configured origin alone."""
    body = urlencode(
        {"grant_type": EXCHANGE, "subject_token": scene.run.evidence(), "subject_token_type": JWT}
    ).encode()
    headers = ["content-type: application/x-www-form-urlencoded", f"dpop: {scene.proof()}"]
    answer = await scene.raw(*lines, *headers, body=body)
    assert answer.split(b"\r\n")[0].endswith(b"200 OK"), answer
    assert b"evil" not in answer
    headers[1] = f"dpop: {scene.proof(url='http://evil.example/token')}"
    answer = await scene.raw(*lines, *headers, body=body)
    assert b"invalid_dpop_proof" in answer


async def test_a_body_that_ends_early_is_no_request(scene: Scene) -> None:
    """A client that leaves in the middle leaves nothing behind: no record, no token, and the next one is served."""
    before = len(await scene.records())
    _, _, port = scene.url.rpartition(":")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(
        b"POST /token HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n"
        b"content-type: application/x-www-form-urlencoded\r\n\r\ngrant_type=cl"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    assert (await scene.exchange()).status_code == 200
    assert len(await scene.records()) == before + 1


async def test_every_answer_carries_its_request_id(scene: Scene) -> None:
    """A person can name the request to an operator, whatever the answer was."""
    ids = {
        answer.headers["x-request-id"]
        for answer in (await scene.exchange(), await scene.exchange("a.b.c"), await scene.post(b"%"))
    }
    assert len(ids) == 3


async def test_refusals_of_strangers_are_counted_and_never_recorded(scene: Scene) -> None:
    """Who has proved nothing fills no disk: a hundred wrong requests leave no record until their minute is written."""
    await scene.counted()
    before, remembered = len(await scene.records()), len(scene.run.broker.tokens.replay)
    answers = await asyncio.gather(*(scene.exchange(quote(f"x{i}")) for i in range(100)))
    assert {error_of(answer) for answer in answers} == {(400, "invalid_request")}
    assert len(await scene.records()) == before
    assert len(scene.run.broker.tokens.replay) <= remembered  # nor are their proofs worth remembering
    assert sum((await scene.counted()).values()) == 100
