"""What a thief does in the play: tries what was copied on its way, from a log, a proxy or a core dump."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec

from broker.demo.agent import Agent, Overheard
from broker.demo.stage import Stage
from broker.demo.transcript import Step, shortened
from broker.entropy import new_id
from broker.formats import dpop


class Thief:
    """Mallory, who has read everything that the agent sent, and has not got its key."""

    def __init__(self, stage: Stage, agent: Agent) -> None:
        self._stage = stage
        self._agent = agent

    def use_stolen_token(self, step: Step) -> None:
        """A thief has the agent's token, but not its key: refused.

        A token of the broker is not money in an envelope. Every request needs a fresh proof by the key that the token
        is bound to, and that key never leaves the agent's process.
        """
        overheard = self._agent.overheard[0]  # the call that passed: but for its proof, it would pass again
        token = overheard.token
        attempts = {
            "without any proof": {"authorization": f"Bearer {token}"},
            "with a proof by a key of the thief's own": {
                "authorization": f"DPoP {token}",
                "dpop": self._own_proof(overheard.method, overheard.url, token),
            },
        }
        for how, headers in attempts.items():
            step.sent(f"POST /openai/v1/chat/completions {how}\nauthorization: {shortened(headers['authorization'])}")
            self._refused(step, overheard, headers, how)
        step.facts["attempts"] = len(attempts)

    def replay_request(self, step: Step) -> None:
        """A thief sends the agent's own request once more, byte for byte: refused.

        Token and proof are both genuine this time. But a proof is for one request, at one time, to one address; the
        broker remembers each for as long as it could be accepted, across restarts too.
        """
        overheard = self._agent.overheard[0]
        shown = (f"{name}: {shortened(overheard.headers[name])}" for name in ("authorization", "dpop"))
        step.sent("\n".join(("POST /openai/v1/chat/completions unchanged", *shown)))
        self._refused(step, overheard, overheard.headers, "as a replay", because="used before")
        step.facts["attempts"] = 1

    def _refused(
        self, step: Step, overheard: Overheard, headers: Mapping[str, str], how: str, *, because: str = ""
    ) -> None:
        """Sends the agent's request with these headers, and expects a refusal that says so."""
        calls = len(self._stage.provider.received)
        kept = {"content-type": "application/json", **headers}
        answer = self._stage.http().post(overheard.url, content=overheard.body, headers=kept)
        told = f"{answer.status_code} {_told(answer)}"
        step.came(told)
        step.holds(f"Refused {how} (401).", answer.status_code == 401 and because in told, told)
        reached = len(self._stage.provider.received) - calls
        step.holds("Nothing reached the provider.", reached == 0, f"{reached} requests")

    def _own_proof(self, method: str, url: str, token: str) -> str:
        stage = self._stage
        key = ec.generate_private_key(ec.SECP256R1())
        now, jti = stage.clock.now(), new_id(stage.entropy)
        return dpop.prove(key, method=method, url=url, now=now, jti=jti, access_token=token)


def _told(answer: httpx2.Response) -> str:
    return str(answer.json()["error"]["message"]) if answer.status_code >= 400 else answer.text[:200]
