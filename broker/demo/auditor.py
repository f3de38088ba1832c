"""What the auditor does in the play: `broker audit` in processes of its own, and in the end with nothing but files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.demo import commands, rule
from broker.demo.admin import Admin
from broker.demo.agent import Agent
from broker.demo.commands import Ran
from broker.demo.stage import Stage
from broker.demo.transcript import NotHeld, Step

REFUSAL, PERMIT, FLIPPED = "refusal.json", "permit.json", "flipped.json"
KEY_FILE = "log.vkey"


class Auditor:
    """Rita, who takes nobody's word for it, and wrote down the log's key when the broker first showed it."""

    def __init__(self, stage: Stage, admin: Admin, agent: Agent) -> None:
        self._stage = stage
        self._admin = admin
        self._agent = agent
        self._indices: dict[str, int] = {}

    @property
    def _home(self) -> Path:
        return self._stage.home("auditor")

    def find_decisions(self, step: Step) -> None:
        """Rita, the auditor, signs in and finds both decisions.

        She is an operator with the auditor's role: she may read the trail and change nothing. From her own process she
        searches for what the agent was answered, and takes away a bundle for each decision: the record, and its proof.
        """
        (self._home / KEY_FILE).write_text(self._stage.log_key + "\n", "utf-8")
        link = self._admin.invite("rita", "auditor")
        self._run(step, "login", link)
        found = self._run(step, "audit", "search", "--agent", rule.AGENT, "--json", shown=False).json()["records"]
        decisions = {
            REFUSAL: self._one(step, found, "CallRefused", self._agent.refused),
            PERMIT: self._one(step, found, "CallAdmitted", self._agent.permitted),
        }
        for file, outcome, made_by in ((REFUSAL, "deny", 0), (PERMIT, "permit", -1)):
            said = decisions[file]["groups"]["decision"]
            index = self._indices[file] = decisions[file]["index"]
            step.came(f"record {index}: {decisions[file]['kind']}, {outcome} by {', '.join(said['policies'])}")
            step.holds(f"It says {outcome}.", said["outcome"] == outcome, said)
            policy_set = self._admin.hashes[made_by]
            step.holds("It names the policy set that decided.", said["set"] == policy_set, said["set"])
        for file, index in self._indices.items():
            self._run(step, "audit", "prove", str(index), "-o", file)
        step.facts.update(records=self._indices)

    def verify_offline(self, step: Step) -> None:
        """Rita verifies both without the broker: no network, and none of its data.

        The process that does it is sealed: any connection, and any look into the broker's folder, would end it. It has
        two files and the key that she wrote down at the start. It checks the signature under the head of the log, that
        each record is in the tree below that head, and that what she reads is what was recorded.
        """
        ran = self._verify(REFUSAL, PERMIT, "--json")
        step.sent(ran.command)
        step.holds("Both are proved.", ran.code == 0, ran.said)
        for proved, outcome in zip(ran.json()["files"], ("deny", "permit"), strict=True):
            file, said = proved["file"], proved["groups"]["decision"]["outcome"]
            step.came(f"{file}: {proved['kind']}, {said}, index {proved['index']} of {proved['size']}")
            step.holds("It is the record that she found.", proved["index"] == self._indices[file], proved["index"])
            step.holds(f"It says {outcome}.", said == outcome, said)
        step.facts.update(files=[REFUSAL, PERMIT], log_key=self._stage.log_key)

    def notice_a_flipped_byte(self, step: Step) -> None:
        """Somebody flips one byte in a copy of the refusal: it is not proved any more.

        Whoever owns the disk can change what is shown, but not so that it still fits what was signed and handed out.
        """
        copy = bytearray((self._home / REFUSAL).read_bytes())
        place = copy.index(b"deny")
        copy[place] ^= 1
        (self._home / FLIPPED).write_bytes(copy)
        step.sent(f"byte {place} of {len(copy)}: deny -> {copy[place : place + 4].decode()}")
        ran = self._verify(FLIPPED, "--json")
        step.sent(ran.command)
        step.holds("The exit code is 1.", ran.code == 1, f"{ran.code}: {ran.said}")
        (found,) = ran.json()["files"]
        step.came(f"{FLIPPED}: {found['detail']}")
        step.holds("The copy is not proved.", found["verified"] is False, found)
        step.facts.update(byte=place, reason=found["error"])

    def _run(self, step: Step, *arguments: str, shown: bool = True) -> Ran:
        ran = commands.run(*arguments, home=self._home)
        step.sent(ran.command)
        if shown or ran.code:
            step.came(ran.said)
        if ran.code:
            raise NotHeld(f"`{ran.command}` exits with 0.", ran.said)
        return ran

    def _verify(self, *arguments: str) -> Ran:
        command = ("audit", "verify", "--key", KEY_FILE, *arguments)
        return commands.run(*command, home=self._home, sealed_from=self._stage.home("broker"))

    def _one(self, step: Step, found: list[Mapping[str, Any]], kind: str, request: str) -> Mapping[str, Any]:
        """The record of a request among those found."""
        matching = [each for each in found if each["kind"] == kind and each["groups"]["request"]["id"] == request]
        step.holds(
            f"She finds the record {kind} of the agent's request.", len(matching) == 1, f"{len(matching)} of them"
        )
        return matching[0]
