"""Enrolment over HTTP: one rule names an agent, what it fixes holds at once, and two rules never disagree silently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from broker.settings import Tokens
from tests.build import es256
from tests.tokens.scene import CLIENT, Scene, claims_of, client_spec, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker"), tokens=Tokens(lifetime_s=600)) as found:
        yield found


def rule(id: str, names: str, when: str, fixes: str = '@owner("team") @ceiling("stand-in/*")') -> str:
    """An enrolment rule for the platform's evidence."""
    return f"""
    @id("{id}") {names} {fixes}
    permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"platform")
    when {{ {when} }};"""


def subject(name: str) -> str:
    """The condition that the evidence has this subject."""
    return f'principal.subject == "{name}"'


async def rules(scene: Scene, file: str, *texts: str) -> None:
    """Puts rules in force, in a file of their own; none removes it."""
    await scene.apply(policies={f"{file}.cedar": "\n".join(texts) or None})


async def as_job(scene: Scene, job: str, **claims: object) -> httpx2.Response:
    """An exchange with the evidence of one job."""
    return await scene.exchange(scene.run.platform.identity_token(job, scene.url, claims))


async def ceiling(scene: Scene, agent: str) -> list[str]:
    """What the API says the agent may use at most."""
    return list((await scene.admin.get(f"/api/v1/agents/{agent}")).json()["ceiling"])


async def test_a_rule_names_the_agent_and_fixes_owner_purpose_and_ceiling(scene: Scene) -> None:
    """The first exchange enrols the agent with what the rule says, and a record tells by which rule."""
    fixes = '@owner("team-a") @purpose("to test") @ceiling("stand-in/stand-in-small stand-in/other")'
    await rules(scene, "one", rule("one", '@agent("first")', subject("one"), fixes))
    answer = await as_job(scene, "one")
    assert claims_of(answer)["sub"] == "first"
    shown = (await scene.admin.get("/api/v1/agents/first")).json()
    assert (shown["owner"], shown["purpose"], shown["kind"]) == ("team-a", "to test", "agent")
    assert (shown["ceiling"], shown["enrolled_by"]) == (["stand-in/other", "stand-in/stand-in-small"], "one")
    enrolled, issued = await scene.records(answer)
    assert (enrolled.kind, issued.kind) == ("AgentEnrolled", "TokenIssued")
    assert enrolled.groups["decision"]["policies"] == ["one"]
    assert enrolled.groups["what"]["ceiling"] == shown["ceiling"]
    again = await as_job(scene, "one")
    assert [record.kind for record in await scene.records(again)] == ["TokenIssued"]


async def test_claims_make_many_names(scene: Scene) -> None:
    """One rule covers a fleet: each combination of stable claims is an agent of its own."""
    await rules(
        scene,
        "fleet",
        rule(
            "fleet",
            '@agent_prefix("ci/") @agent_claims("repository,environment")',
            'principal.hasTag("repository") && principal.hasTag("environment")',
        ),
    )
    names = set()
    for repository in ("etl", "web"):
        for environment in ("prod", "test"):
            answer = await as_job(scene, "fleet", repository=repository, environment=environment)
            names.add(claims_of(answer)["sub"])
    assert names == {"ci/etl/prod", "ci/etl/test", "ci/web/prod", "ci/web/test"}


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"a": "x/y", "b": "z"}, "esc/x%2Fy/z"),
        ({"a": "x", "b": "y/z"}, "esc/x/y%2Fz"),
        ({"a": "x%2Fy", "b": "z"}, "esc/x%252Fy/z"),
        ({"a": "..", "b": ".."}, "esc/../.."),
        ({"a": "operator:admin", "b": "a b"}, "esc/operator%3Aadmin/a%20b"),
        ({"a": "é", "b": "\u202e"}, "esc/%C3%A9/%E2%80%AE"),
        ({"a": "e\u0301", "b": "x"}, "esc/e%CC%81/x"),
        ({"a": "A", "b": "x"}, "esc/A/x"),
        ({"a": "a", "b": "x"}, "esc/a/x"),
        ({"a": 1, "b": True}, "esc/1/true"),
    ],
    ids=str,
)
async def test_claim_values_are_escaped(scene: Scene, claims: dict[str, Any], name: str) -> None:
    """A value with "/" or "%" poses neither as two parts nor as another value: no two make the same name."""
    await rules(scene, "esc", rule("esc", '@agent_prefix("esc/") @agent_claims("a,b")', 'principal.hasTag("a")'))
    assert claims_of(await as_job(scene, "esc", **claims))["sub"] == name
    await rules(scene, "esc")


@pytest.mark.parametrize("claims", [{"a": "x"}, {"a": "x", "b": ""}, {"a": "x", "b": ["y"]}, {"a": "x", "b": None}])
async def test_a_name_with_a_missing_part_is_refused(scene: Scene, claims: dict[str, Any]) -> None:
    """A rule whose claim is missing, empty or no text names nobody, and the text says which claim."""
    await rules(scene, "part", rule("part", '@agent_prefix("part/") @agent_claims("a,b")', 'principal.hasTag("a")'))
    answer = await as_job(scene, "part", **claims)
    assert error_of(answer) == (400, "invalid_request")
    assert "'b'" in answer.json()["error_description"]
    await rules(scene, "part")


async def test_a_name_that_no_agent_can_have_is_refused(scene: Scene) -> None:
    """Two hundred characters are the bound, after escaping, and the first is a letter or digit."""
    await rules(scene, "bound", rule("bound", '@agent_prefix("b/") @agent_claims("a")', 'principal.hasTag("a")'))
    assert claims_of(await as_job(scene, "bound", a="x" * 198))["sub"] == "b/" + "x" * 198
    for value in ("x" * 199, "/" * 67):
        assert error_of(await as_job(scene, "bound", a=value)) == (400, "invalid_request")
    await rules(scene, "bound", rule("bound", '@agent_claims("a")', 'principal.hasTag("a")'))
    for value in ("/x", "é", "-x"):
        assert error_of(await as_job(scene, "bound", a=value)) == (400, "invalid_request")
    await rules(scene, "bound")


async def test_a_claim_of_the_tokens_own_choice_is_no_attribute(scene: Scene) -> None:
    """`subject` and `issuer` in a rule are the verified ones, whatever claims of these names the token carries."""
    await rules(scene, "attr", rule("attr", '@agent_prefix("attr/") @agent_claims("subject")', subject("attr")))
    assert claims_of(await as_job(scene, "attr", subject="admin", issuer="x"))["sub"] == "attr/attr"
    await rules(scene, "attr")


async def test_two_rules_that_name_different_agents_are_a_refusal(scene: Scene) -> None:
    """The rules themselves do not know, so nobody is let in; two that agree are one."""
    one, two = rule("two-a", '@agent("two-a")', subject("two")), rule("two-b", '@agent("two-b")', subject("two"))
    await rules(scene, "two", one, two)
    answer = await as_job(scene, "two")
    assert error_of(answer) == (400, "invalid_request")
    assert "two-a, two-b" in answer.json()["error_description"]
    assert "two-a" not in scene.run.broker.directory.agents
    await rules(scene, "two", one, rule("two-b", '@agent("two-a")', subject("two")))
    answer = await as_job(scene, "two")
    assert claims_of(answer)["sub"] == "two-a"
    assert (await scene.records(answer))[-1].groups["posture"]["rules"] == ["two-a", "two-b"]


async def test_two_rules_that_fix_different_rights_are_a_refusal(scene: Scene) -> None:
    """The same agent with two ceilings or owners: refused, not the wider and not the first."""
    one = rule("rights-a", '@agent("rights")', subject("rights"))
    for fixes in ('@owner("team") @ceiling("stand-in/stand-in-small")', '@owner("others") @ceiling("stand-in/*")'):
        await rules(scene, "rights", one, rule("rights-b", '@agent("rights")', subject("rights"), fixes))
        answer = await as_job(scene, "rights")
        assert error_of(answer) == (400, "invalid_request")
        assert "different owners or ceilings" in answer.json()["error_description"]


async def test_a_forbid_outweighs_every_rule(scene: Scene) -> None:
    """A forbid on `enrol` keeps evidence out, whatever permits say, and is looked for in lists too."""
    forbid = """
    @id("never-blocked")
    forbid (principal is OidcEvidence, action == Action::"enrol", resource)
    when { context.lists.hasTag("groups") && context.lists.getTag("groups").contains("blocked") };"""
    await rules(scene, "forbid", rule("forbidden", '@agent("forbidden")', subject("forbidden")), forbid)
    assert (await as_job(scene, "forbidden", groups=["a", "b"])).status_code == 200
    groups = [f"group-{n}" for n in range(255)]
    answer = await as_job(scene, "forbidden", groups=[*groups, "blocked"])
    assert error_of(answer) == (400, "invalid_request")
    await rules(scene, "forbid")


async def test_a_rule_takes_no_agent_that_was_registered(scene: Scene) -> None:
    """A ceiling rule that names an agent an admin registered is a conflict, and is refused."""
    await rules(scene, "taken", rule("taken", f'@agent("{CLIENT}")', subject("taken")))
    answer = await as_job(scene, "taken")
    assert error_of(answer) == (400, "invalid_request")
    assert "registered otherwise" in answer.json()["error_description"]
    assert await ceiling(scene, CLIENT) == ["stand-in/stand-in-small"]
    await rules(scene, "taken")


async def test_a_rule_takes_no_agent_of_another_rule(scene: Scene) -> None:
    """While the rule that enrolled it is in force, another rule that fixes something does not get the agent."""
    first = rule("holder", '@agent("held")', subject("holder"))
    await rules(scene, "held", first, rule("taker", '@agent("held")', subject("taker"), '@owner("x") @ceiling("y/*")'))
    assert (await as_job(scene, "holder")).status_code == 200
    assert error_of(await as_job(scene, "taker")) == (400, "invalid_request")
    await rules(scene, "held", rule("taker", '@agent("held")', subject("taker"), '@owner("x") @ceiling("y/*")'))
    assert (await as_job(scene, "taker")).status_code == 200
    assert await ceiling(scene, "held") == ["y/*"]


async def test_a_rule_without_a_ceiling_needs_a_registered_agent(scene: Scene) -> None:
    """It only says who the evidence is; owner and ceiling are then the registration's."""
    await rules(scene, "registered", rule("reg", '@agent("to-register")', subject("registered"), fixes=""))
    answer = await as_job(scene, "registered")
    assert error_of(answer) == (400, "invalid_request")
    assert "not registered" in answer.json()["error_description"]
    await scene.apply(agents={"to-register": client_spec(None, kind="agent")})
    assert claims_of(await as_job(scene, "registered"))["sub"] == "to-register"
    assert await ceiling(scene, "to-register") == ["stand-in/stand-in-small"]


async def test_no_agent_has_an_operators_name(scene: Scene) -> None:
    """A rule cannot make an agent that the rest of the house would take for an operator."""
    await rules(scene, "operator", rule("posing", '@agent("operator:admin")', subject("posing")))
    answer = await as_job(scene, "posing")
    assert error_of(answer) == (400, "invalid_request")
    assert "operator:" in answer.json()["error_description"]
    assert "operator:admin" not in scene.run.broker.directory.agents
    for name in ("broker", "unknown"):
        await rules(scene, "operator", rule("posing", f'@agent("{name}")', subject("posing")))
        answer = await as_job(scene, "posing")
        assert (error_of(answer)[0], "records of others" in answer.json()["error_description"]) == (400, True)
    await rules(scene, "operator", rule("posing", '@agent_claims("sub")', subject("operator:admin")))
    assert claims_of(await as_job(scene, "operator:admin"))["sub"] == "operator%3Aadmin"
    await rules(scene, "operator")
    refused = await scene.admin.post("/api/v1/changes", json={"agents": {"operator:x": client_spec(es256())}})
    assert refused.status_code == 422


async def test_an_operators_key_names_no_agent(scene: Scene) -> None:
    """An agent that is called like an operator, without the prefix, is another principal with other keys."""
    key = es256()
    await scene.apply(agents={"admin": client_spec(key)})
    claims = claims_of(await scene.credentials(scene.assertion("admin", key=key)))
    assert claims["sub"] == "admin"
    assert error_of(await scene.credentials(scene.assertion("operator:admin", key=key))) == (401, "invalid_client")
    api = await scene.credentials(scene.assertion("admin", key=key), resource=f"{scene.url}/api/v1")
    assert error_of(api) == (400, "invalid_target")


async def test_a_changed_rule_is_followed_at_once(scene: Scene) -> None:
    """Narrowing, widening and removing a rule change its agents' ceilings in the same step, for tokens that are out."""
    wide, narrow = '@owner("t") @ceiling("stand-in/*")', '@owner("t") @ceiling("stand-in/stand-in-large")'
    await rules(scene, "changed", rule("changed", '@agent("changed")', subject("changed"), wide))
    key = es256()
    token = (await scene.exchange(scene.run.evidence("changed"), key=key)).json()["access_token"]

    async def offered() -> list[str]:
        listed = (await scene.call(token, key)).json()
        return sorted(model["id"] for model in listed.get("data", []))

    assert await offered() == ["stand-in-large", "stand-in-small"]
    await rules(scene, "changed", rule("changed", '@agent("changed")', subject("changed"), narrow))
    assert await ceiling(scene, "changed") == ["stand-in/stand-in-large"]
    assert await offered() == ["stand-in-large"]
    await rules(scene, "changed", rule("changed", '@agent("changed")', subject("changed"), wide))
    assert await offered() == ["stand-in-large", "stand-in-small"]
    await rules(scene, "changed")
    assert await offered() == []
    assert error_of(await as_job(scene, "changed")) == (400, "invalid_request")


async def test_first_exchanges_at_once_enrol_one_agent(scene: Scene) -> None:
    """Twenty instances that start together make one agent and one record of it, and all get their tokens."""
    await rules(scene, "crowd", rule("crowd", '@agent("crowd")', subject("crowd")))
    answers = await asyncio.gather(*(as_job(scene, "crowd") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    kinds = [record.kind for answer in answers for record in await scene.records(answer)]
    assert (kinds.count("AgentEnrolled"), kinds.count("TokenIssued")) == (1, 20)
    assert len(scene.run.broker.instances.of("crowd")) == 20


async def test_the_status_of_an_agent_is_its_own(scene: Scene) -> None:
    """A rule fixes what an agent may at most, never that it may again: a suspended one stays so as the rule changes."""
    await rules(scene, "status", rule("status", '@agent("status")', subject("status")))
    assert (await as_job(scene, "status")).status_code == 200
    await scene.contain("agents", "status", "suspended")
    fixes = '@owner("t") @ceiling("stand-in/stand-in-small")'
    for id in ("status", "status-2"):
        await rules(scene, "status", rule(id, '@agent("status")', subject("status"), fixes))
        assert error_of(await as_job(scene, "status")) == (400, "invalid_target")
        assert scene.run.broker.directory.agents["status"].status == "suspended"
