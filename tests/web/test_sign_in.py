"""`POST /login`: a one-time link brings an operator's key in, once, within ten minutes; its code is kept nowhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from itertools import count

import httpx2
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from broker.entropy import new_id, system_entropy
from broker.errors import AccessDenied
from broker.formats import dpop
from tests.build import es256, thumbprint
from tests.tokens.scene import Scene, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")

_names = (f"operator-{n}" for n in count())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


async def login(
    scene: Scene, code: object, key: ec.EllipticCurvePrivateKey | None = None, *, proof: str | None = None
) -> httpx2.Response:
    """Spends a code for a key."""
    proof = proof if proof is not None else scene.proof(key, url=f"{scene.url}/login")
    return await scene.http.post("/login", json={"code": code}, headers={"dpop": proof} if proof else {})


async def invited(scene: Scene, name: str | None = None, *roles: str) -> tuple[str, str]:
    """A new operator's name and sign-in code."""
    name = name or next(_names)
    added = await scene.apply(operators={name: {"roles": list(roles or ("auditor",))}})
    return name, added["sign_in_links"][name].partition("#")[2]


async def test_a_link_registers_the_key_that_was_proved(scene: Scene) -> None:
    """The key of the proof, and no other, becomes a key of the link's operator; the record says whose and which."""
    name, code = await invited(scene)
    key = es256()
    answer = await login(scene, code, key)
    assert answer.status_code == 200
    assert answer.json() == {"client_id": f"operator:{name}", "issuer": scene.url, "roles": ["auditor"]}
    assert [k.thumbprint for k in scene.run.broker.directory.operators[name].keys] == [thumbprint(key)]
    (record,) = [r for r in await scene.records() if r.kind == "OperatorSignedIn" and r.agent == f"operator:{name}"]
    assert record.groups["who"] == {"agent": f"operator:{name}", "thumbprint": thumbprint(key)}


async def test_the_tokens_of_a_new_operator_have_the_roles_of_the_link(scene: Scene) -> None:
    """An auditor reads the trail and cannot change anything; the key's tokens come from /token like everybody's."""
    _, code = await invited(scene, None, "auditor")
    auditor = await scene.run.operator(link=f"{scene.url}/login#{code}")
    assert (await auditor.get("/api/v1/audit/records")).status_code == 200
    assert (await auditor.post("/api/v1/changes", json={"operators": {"x": {"roles": ["admin"]}}})).status_code == 403


async def test_a_second_machine_leaves_the_first_one_signed_in(scene: Scene) -> None:
    """An operator may have several keys: each of them gets tokens, though none of them has a name."""
    name, code = await invited(scene)
    first = await scene.run.operator(link=f"{scene.url}/login#{code}")
    again = await scene.apply(operators={name: {"roles": ["auditor"], "new_link": True}})
    second = await scene.run.operator(link=again["sign_in_links"][name])
    for client in (first, second, first):
        scene.clock.advance(400)
        assert (await client.get("/api/v1/whoami")).json()["name"] == name


async def test_a_link_works_once(scene: Scene) -> None:
    """The second use is refused and changes nothing, whoever comes with it."""
    name, code = await invited(scene)
    key = es256()
    assert (await login(scene, code, key)).status_code == 200
    for other in (es256(), key):
        assert (await login(scene, code, other)).status_code == 403
    assert [k.thumbprint for k in scene.run.broker.directory.operators[name].keys] == [thumbprint(key)]


async def test_of_two_at_once_one_is_signed_in(scene: Scene) -> None:
    """SPIRE join token 1.14.6: using a code up is one atomic statement, so that a race has one winner."""
    for _ in range(5):
        name, code = await invited(scene)
        keys = [es256() for _ in range(6)]
        answers = await asyncio.gather(*(login(scene, code, key) for key in keys))
        winners = [key for key, answer in zip(keys, answers, strict=True) if answer.status_code == 200]
        assert len(winners) == 1
        assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403, 403, 403]
        known = scene.run.broker.directory.operators[name].keys
        assert [k.thumbprint for k in known] == [thumbprint(winners[0])]


@pytest.mark.parametrize(("age_s", "status"), [(599, 200), (600, 403), (601, 403)])
async def test_a_link_lives_ten_minutes(scene: Scene, age_s: int, status: int) -> None:
    """It is dead at the six hundredth second, not one later."""
    _, code = await invited(scene)
    scene.clock.advance(age_s)
    assert (await login(scene, code)).status_code == status


async def test_a_new_link_ends_the_older_one(scene: Scene) -> None:
    """An operator has one open link: sending another one closes what was sent before."""
    name, old = await invited(scene)
    new = (await scene.apply(operators={name: {"roles": ["auditor"], "new_link": True}}))["sign_in_links"][name]
    assert (await login(scene, old)).status_code == 403
    assert (await login(scene, new.partition("#")[2])).status_code == 200


@pytest.mark.parametrize("code", ["unknown", "A" * 44, "' OR '1'='1", "x" * 200])
async def test_an_unknown_code_is_refused_and_counted(scene: Scene, code: str) -> None:
    """A stranger who guesses learns nothing, leaves no record, and is counted."""
    await scene.counted()
    before, remembered = len(await scene.records()), len(scene.run.broker.sign_in.replay)
    answer = await login(scene, code)
    assert answer.status_code == 403
    assert "unknown, used or too old" in answer.json()["detail"]
    assert await scene.counted() == {"unknown_link": 1}
    assert len(await scene.records()) == before
    assert len(scene.run.broker.sign_in.replay) <= remembered


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'"x"',
        b'{"code": 1}',
        b'{"code": ""}',
        b'{"code": null}',
        b'{"code":"a","code":"b"}',
        b"\xff",
    ],
    ids=str,
)
async def test_a_body_without_a_code_is_refused_and_counted(scene: Scene, body: bytes) -> None:
    """Anything but one JSON object with one code of a sensible length is 400 and tells what to send."""
    await scene.counted()
    answer = await scene.http.post("/login", content=body, headers={"dpop": scene.proof(url=f"{scene.url}/login")})
    assert answer.status_code == 400
    assert "`code`" in answer.json()["detail"]
    assert await scene.counted() == {"invalid_request": 1}


async def test_a_body_beyond_bounds_is_refused_and_counted(scene: Scene) -> None:
    """A code is short: 201 characters are none, and more than 4 KiB are not read."""
    assert (await login(scene, "x" * 201)).status_code == 400
    assert (await login(scene, "x" * 5000)).status_code == 413
    assert await scene.counted() == {"invalid_request": 1, "too_large": 1}


async def test_a_link_is_not_spent_without_a_good_proof(scene: Scene) -> None:
    """No proof, two of them, one for another URL, method or time: refused, and the link is as good as before."""
    _, code = await invited(scene)
    url = f"{scene.url}/login"
    await scene.counted()
    for proof in (
        "",
        "x",
        scene.proof(url=f"{scene.url}/token"),
        scene.proof(url=url, method="GET"),
        scene.proof(url=url, age_s=61),
        scene.proof(url=url, age_s=-6),
    ):
        assert (await login(scene, code, proof=proof)).status_code == 401
    two = [("dpop", scene.proof(url=url)), ("dpop", scene.proof(url=url))]
    assert (await scene.http.post("/login", json={"code": code}, headers=two)).status_code == 401
    assert sum((await scene.counted()).values()) == 7
    assert (await login(scene, code)).status_code == 200


async def test_a_used_proof_registers_nothing(scene: Scene) -> None:
    """A proof that was seen once brings its key in once; trying again is recorded, for the code was good."""
    key = es256()
    proof = dpop.prove(key, method="POST", url=f"{scene.url}/login", now=scene.clock.now(), jti=new_id(system_entropy))
    _, first = await invited(scene)
    name, second = await invited(scene)
    assert (await login(scene, first, proof=proof)).status_code == 200
    answer = await login(scene, second, proof=proof)
    assert answer.status_code == 401
    (record,) = await scene.records(answer)
    assert (record.kind, record.agent) == ("OperatorRefused", f"operator:{name}")
    assert record.groups["decision"]["reason"] == "replayed_proof"
    assert scene.run.broker.directory.operators[name].keys == ()
    assert (await login(scene, second, key)).status_code == 200


async def test_a_suspended_operator_cannot_sign_in(scene: Scene) -> None:
    """A link that was sent before the suspension registers no key, and that it was tried is on record."""
    name, code = await invited(scene)
    await scene.contain("operators", name, "suspended")
    answer = await login(scene, code)
    assert answer.status_code == 403
    (record,) = await scene.records(answer)
    assert (record.kind, record.agent) == ("OperatorRefused", f"operator:{name}")
    assert scene.run.broker.directory.operators[name].keys == ()


async def test_a_suspended_operators_key_gets_no_token(scene: Scene) -> None:
    """Suspending works on the token that is out, and on the next one."""
    name, code = await invited(scene)
    client = await scene.run.operator(link=f"{scene.url}/login#{code}")
    assert (await client.get("/api/v1/whoami")).status_code == 200
    await scene.contain("operators", name, "suspended")
    assert (await client.get("/api/v1/whoami")).status_code == 403
    key = es256()
    refused = await scene.credentials(
        scene.assertion(f"operator:{name}", key=key), client=f"operator:{name}", resource=f"{scene.url}/api/v1"
    )
    assert error_of(refused) == (401, "invalid_client")


async def test_the_terminals_link_is_for_this_machine_alone(scene: Scene) -> None:
    """The first admin's link works from loopback; the same code from elsewhere is refused, and stays good here."""
    code = (await scene.run.broker.sign_in.link("admin")).partition("#")[2]
    before = scene.run.broker.directory.operators["admin"].keys
    proofs = [scene.proof(url=f"{scene.url}/login")]
    with pytest.raises(AccessDenied, match="unknown, used or too old"):
        await scene.run.broker.sign_in.spend(code, proofs=proofs, source="x", from_loopback=False, request_id="r")
    assert scene.run.broker.directory.operators["admin"].keys == before
    assert (await login(scene, code)).status_code == 200


async def test_an_invited_operators_link_works_from_anywhere(scene: Scene) -> None:
    """A link that an admin sent is for another machine."""
    _, code = await invited(scene)
    proofs = [scene.proof(url=f"{scene.url}/login")]
    await scene.run.broker.sign_in.spend(code, proofs=proofs, source="x", from_loopback=False, request_id="r")


async def test_links_survive_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A link that was sent works after a restart, and a used one does not come back."""
    folder = tmp_path_factory.mktemp("restarted")
    async with opened(folder) as scene:
        _, used = await invited(scene)
        name, unused = await invited(scene)
        assert (await login(scene, used)).status_code == 200
        clock = scene.clock
    async with opened(folder, clock=clock) as scene:
        assert (await login(scene, used)).status_code == 403
        assert (await login(scene, unused)).status_code == 200
        assert len(scene.run.broker.directory.operators[name].keys) == 1


async def test_a_code_is_nowhere_in_clear(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Neither database, records nor log hold the code: unused, used, or mistyped."""
    caplog.set_level(logging.DEBUG)
    _, unused = await invited(scene)
    _, used = await invited(scene)
    await login(scene, used)
    wrong = new_id(system_entropy) * 2
    await login(scene, wrong)
    await scene.counted()
    await asyncio.to_thread(scene.run.broker.tree.integrate)
    stored = b"".join(path.read_bytes() for path in (scene.run.folder / "data").rglob("*") if path.is_file())
    for code in (unused, used, wrong):
        assert code.encode() not in stored
        assert code not in caplog.text
