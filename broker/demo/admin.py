"""What the admin does in the play: everything goes through `/api/v1`, with a token bound to the admin's key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import BrokerAuth
from broker.demo import commands, rule
from broker.demo.stage import SECRET, Stage
from broker.demo.transcript import Step
from broker.entropy import new_id
from broker.formats import dpop

_SHOWN_CHARACTERS = 700


class Admin:
    """Ada, who runs the broker.

    Attributes:
        hashes: the policy sets that she brought into force, in their order.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._api: httpx2.Client | None = None
        self.hashes: list[str] = []

    def sign_in(self, step: Step) -> None:
        """Ada, the first admin, signs in with the one-time link.

        There is no default password. Whoever starts the broker sees a link on the terminal that works once, for ten
        minutes, on this machine. `broker login` makes a key and registers it; every token she gets is bound to it.
        """
        stage = self._stage
        ran = commands.run("login", stage.link, home=stage.home("admin"))
        step.sent(ran.command)
        step.came(ran.said)
        step.holds("`broker login` exits with 0.", ran.code == 0, ran.said)
        self._api = stage.http(operator_auth(stage.home("admin")))
        me = self.get("/whoami")
        step.holds("The API knows her as an admin.", "admin" in me["roles"], me)
        answer = self._spend_again(stage.link)
        step.came(f"the same link again: {answer.status_code} {_told(answer)}")
        step.holds("The link works once: somebody else who finds it is refused.", answer.status_code == 403, answer)
        step.facts.update(operator=me["client_id"], roles=me["roles"], second_use=answer.status_code)

    def trust_platform(self, step: Step) -> None:
        """Ada trusts the platform where the agent runs.

        The platform signs a short token for every job it runs. Trusting it says: tokens of this issuer, made out for
        this broker, signed with these algorithms, are evidence of what a job is. No job may do anything yet.
        """
        spec = {
            "kind": "oidc",
            "issuer": self._stage.platform.issuer,
            "audience": self._stage.url,
            "algorithms": ["ES256"],
        }
        self._apply(step, {"attesters": {rule.ATTESTER: spec}})

    def connect_provider(self, step: Step) -> None:
        """Ada connects the model provider, naming its key.

        The key itself is never typed here and never stored: the data says "the secret called stand-in", and the
        configuration alone says where that secret may be sent. A stolen database or a rogue admin cannot redirect it.
        """
        spec = {
            "base_url": self._stage.provider.base_url,
            "secret": SECRET,
            "models": [rule.SMALL, rule.LARGE],
        }
        messages = {**spec, "wire": "anthropic", "models": [rule.SMALL]}
        self._apply(step, {"endpoints": {rule.ENDPOINT: spec, rule.MESSAGES: messages}})
        elsewhere = {**spec, "base_url": self._stage.platform.origin + "/v1"}
        answer = self._propose({"endpoints": {"elsewhere": elsewhere}})
        step.sent("the same key for another address")
        step.came(f"{answer.status_code} {_told(answer)}")
        step.holds("The key cannot be pointed at any other address.", answer.status_code == 422, answer)

    def add_enrolment_rule(self, step: Step) -> None:
        """Ada writes one rule: which job is which agent, and what it may use at most.

        The rule is a Cedar policy. It comes with cases: requests with the answer they must get. No set of policies is
        ever activated that does not parse, does not fit the schema, or gets one case wrong.
        """
        ceiling = (rule.SMALL,)
        step.sent(f"{rule.POLICY_FILE}\n\n{rule.policy(ceiling)}")
        named = (f"- {case['name']}: {case['expect']}" for case in yaml.safe_load(rule.cases(ceiling))["cases"])
        step.sent("\n".join((rule.CASE_FILE, *named)))
        self._apply(step, _change(rule.policy(ceiling), rule.cases(ceiling)), show=False)
        self.hashes.append(self._hash())
        step.came(f"policy set in force: {self.hashes[-1][:16]}...")
        step.facts["set"] = self.hashes[-1]

    def explain_refusal(self, step: Step) -> None:
        """Ada asks why the call was refused, and is told in words.

        The explanation is the same decision made again, not a guess about it: it names the policy, what in it stood in
        the way, and what a person can do.
        """
        model = rule.full_name(rule.LARGE)
        step.sent(f"POST /api/v1/policies/explain\nagent: {rule.AGENT}, model: {model}")
        answer = self._client.post(
            "/api/v1/policies/explain", json={"agent": rule.AGENT, "model": model, "stream": True}
        )
        found = answer.json()
        step.holds("The broker explains.", answer.is_success, _told(answer))
        step.came("\n".join([found["summary"], *(line["text"] for line in found["lines"])]))
        step.holds("The decision is a refusal.", found["permitted"] is False, found)
        step.holds("What limited it is the agent's ceiling.", found["limited_by"] == "ceiling", found["limited_by"])
        told = [line for line in found["lines"] if line["policy"] == "outside-ceiling" and line["advice"]]
        step.holds("It names the policy `outside-ceiling` and says what to do.", bool(told), found["lines"])
        step.facts.update(limited_by=found["limited_by"], policies=found["policies"], advice=told[0]["advice"])

    def break_a_case(self, step: Step) -> None:
        """Ada widens the ceiling, and by mistake the rule as well: refused.

        She wants the agent to have the large model too. While she is there she "simplifies" the condition, and now
        every job of the company would be this agent, pull requests of strangers included. A case knows better.
        """
        ceiling = (rule.SMALL, rule.LARGE)
        step.sent(f"{rule.POLICY_FILE}, now with\n  when {{ {rule.CARELESS} }}")
        answer = self._propose(_change(rule.policy(ceiling, condition=rule.CARELESS), rule.cases(ceiling)))
        told = _told(answer)
        step.came(f"{answer.status_code} {told}")
        step.holds("The change is refused.", answer.status_code == 422, answer)
        step.holds("The refusal names the case that came out wrong.", rule.STRANGER_CASE in told, told)
        now = self._hash()
        step.holds("Nothing of it is in force: the policy set is the one from before.", now == self.hashes[-1], now)
        step.facts.update(status=answer.status_code, case=rule.STRANGER_CASE)

    def widen_ceiling(self, step: Step) -> None:
        """Ada widens the ceiling and nothing else: activated.

        The case that states the ceiling changes with it, so that the change is on record twice: as rule and as intent.
        With a second admin this would wait for that person's approval; taking rights away never waits.
        """
        ceiling = (rule.SMALL, rule.LARGE)
        step.sent(f'{rule.POLICY_FILE}, now with\n  @ceiling("{" ".join(rule.entries(ceiling))}")')
        self._apply(step, _change(rule.policy(ceiling), rule.cases(ceiling)), show=False)
        self.hashes.append(self._hash())
        step.came(f"policy set in force: {self.hashes[-1][:16]}...")
        step.holds("Another policy set is in force.", self.hashes[-1] != self.hashes[-2], self.hashes)
        known = self.get(f"/agents/{rule.AGENT}")["ceiling"]
        step.holds("The agent's ceiling follows its rule at once.", known == sorted(rule.entries(ceiling)), known)
        step.facts.update(set=self.hashes[-1], ceiling=known)

    def invite(self, name: str, role: str) -> str:
        """Adds an operator; returns the one-time link that is for that person."""
        answer = self._propose({"operators": {name: {"roles": [role]}}})
        answer.raise_for_status()
        return str(answer.json()["sign_in_links"][name])

    def get(self, path: str) -> Any:
        """The JSON answer of a GET of the API."""
        return self._client.get(f"/api/v1{path}").raise_for_status().json()

    @property
    def _client(self) -> httpx2.Client:
        assert self._api is not None, "she signs in first"
        return self._api

    def _propose(self, manifest: Mapping[str, Any]) -> httpx2.Response:
        return self._client.post("/api/v1/changes", json=manifest)

    def _apply(self, step: Step, manifest: Mapping[str, Any], *, show: bool = True) -> None:
        """Proposes a change, and checks that it is in force and on record."""
        if show:
            text = yaml.safe_dump(dict(manifest), sort_keys=False, default_flow_style=False)
            step.sent(f"POST /api/v1/changes (the same as `broker apply -f FILE`)\n\n{text}")
        answer = self._propose(manifest)
        told = _told(answer)
        found = answer.json() if answer.is_success else {}
        step.came(f"{answer.status_code} {found['status']}, record {found['record']} of the log" if found else told)
        step.holds("The change is in force.", found.get("status") == "activated", told)
        kind = self.get(f"/audit/records/{found['record']}")["kind"]
        step.holds("It is on record.", kind == "ChangeActivated", kind)
        step.facts["record"] = found["record"]

    def _hash(self) -> str:
        return str(self.get("/policies")["hash"])

    def _spend_again(self, link: str) -> httpx2.Response:
        parts = urlsplit(link)
        url = f"{parts.scheme}://{parts.netloc}{parts.path}"
        key = ec.generate_private_key(ec.SECP256R1())
        now, jti = self._stage.clock.now(), new_id(self._stage.entropy)
        proof = dpop.prove(key, method="POST", url=url, now=now, jti=jti)
        return self._stage.http().post(url, json={"code": parts.fragment}, headers={"DPoP": proof})


def operator_auth(home: Path) -> BrokerAuth:
    """The sign-in that `broker login` saved in a person's folder."""
    saved = json.loads((home / "login.json").read_text("utf-8"))
    issuer = saved["issuer"]
    return BrokerAuth(issuer, client_id=saved["client_id"], key=home / saved["key"], audience=f"{issuer}/api/v1")


def _change(policy: str, cases: str) -> dict[str, Any]:
    return {"policies": {rule.POLICY_FILE: policy}, "cases": {rule.CASE_FILE: cases}}


def _told(answer: httpx2.Response) -> str:
    """What an answer says to a person."""
    try:
        members = answer.json()
    except ValueError:
        return answer.text[:_SHOWN_CHARACTERS]
    return str(members.get("detail") or members.get("error_description") or members)[:_SHOWN_CHARACTERS]
