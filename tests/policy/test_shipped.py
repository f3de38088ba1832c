"""The policies that the package brings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from broker.policy import cases, engine
from broker.policy.cases import Case
from broker.policy.shipped import read
from tests.policy.world import agent, call, exchange, extended, model, shipped_files, shipped_set

CASES = cases.parse(shipped_files().cases)
_EXAMPLE = re.compile(r"^// @id\(.*?;$", re.MULTILINE | re.DOTALL)


def examples() -> list[str]:
    """The commented-out policies of the shipped files, without their comment signs."""
    text = "\n".join(shipped_files().files.values())
    return [re.sub(r"^// ?", "", found, flags=re.MULTILINE) for found in _EXAMPLE.findall(text)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}: {case.name}")
def test_a_shipped_case_holds(case: Case) -> None:
    """The shipped set answers every shipped case as the case says, for the reasons it says."""
    (found,) = cases.run(shipped_set(), [case])
    assert found.message == ""


def test_every_shipped_policy_is_tried_both_ways() -> None:
    """Each shipped policy has a case that it decides and one that it leaves alone."""
    assert cases.unexercised(shipped_set(), CASES) == ()


@pytest.mark.parametrize("gone", [policy.id for policy in shipped_set().policies])
def test_the_cases_notice_a_missing_policy(gone: str) -> None:
    """Without any one of the shipped policies, some shipped case fails."""
    files = dict(shipped_files().files)
    (found,) = (policy for policy in shipped_set().policies if policy.id == gone)
    start = files[found.file].index(f'@id("{gone}")')
    end = files[found.file].index(";\n", start) + 1
    files[found.file] = files[found.file][:start] + files[found.file][end:]
    smaller = engine.compile(shipped_files().schema, files)
    assert len(smaller.policies) == len(shipped_set().policies) - 1
    assert not all(result.passed for result in cases.run(smaller, CASES))


def test_every_shipped_forbid_advises() -> None:
    """Who is refused learns what to do about it."""
    forbids = [policy for policy in shipped_set().policies if policy.effect == "forbid"]
    assert [policy.id for policy in forbids if "advice" not in policy.annotations] == []


def test_the_examples_in_comments_are_sound() -> None:
    """Every example that an admin may uncomment compiles together with the shipped set, and there are twelve."""
    found = examples()
    assert len(found) == 12
    extended(examples="\n\n".join(found))


def test_the_bearer_example_permits_one_agent() -> None:
    """The example for a token that is not bound to a key opens it for its agent and for nobody else."""
    (example,) = (text for text in examples() if "legacy-bot" in text)
    policies = extended(bearer=example)
    audience = engine.Entity(("Audience", "g"), {"kind": "gateway"})
    bot, other = agent("legacy-bot"), agent()
    entities = policies.prepare([bot, other, audience])
    assert policies.decide(exchange(bot, audience, confirmation="none"), entities).permitted
    assert not policies.decide(exchange(other, audience, confirmation="none"), entities).permitted
    assert not policies.decide(exchange(bot, audience, confirmation="none", lifetime_s=301), entities).permitted


def test_an_added_permit_stays_inside_the_ceiling() -> None:
    """A permit that an admin adds for everybody opens no model beyond a ceiling."""
    policies = extended(wide='@id("wide") permit (principal is Agent, action == Action::"call", resource is Model);')
    entities = policies.prepare([agent(), model("openai/gpt-4o")])
    decision = policies.decide(call(agent(), model("openai/gpt-4o")), entities)
    assert (decision.permitted, decision.policies, decision.limited_by) == (
        False,
        ("outside-ceiling",),
        "ceiling",
    )


def test_a_folder_without_policies_is_refused(tmp_path: Path) -> None:
    """An incomplete installation is a sentence at start and not an empty policy set."""
    with pytest.raises(ConfigurationError, match="schema"):
        read(tmp_path)
    (tmp_path / "schema.cedarschema").write_text("entity A;", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"no \.cedar file"):
        read(tmp_path)
    (tmp_path / "a.cedar").write_text("// é", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert read(tmp_path).files == {"a.cedar": "// é"}
    assert read(tmp_path).cases == {}
