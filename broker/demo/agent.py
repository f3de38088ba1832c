"""What the agent does in the play: it shows who it is, and calls models through the plain `openai` SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import BrokerAuth, build_token_request, exchange_form, read_token_answer
from broker.demo import rule
from broker.demo.stage import Stage
from broker.demo.transcript import NotHeld, Step, shortened
from broker.entropy import new_id
from broker.formats import access_token, jwk, jws

if TYPE_CHECKING:
    from openai import OpenAI, Stream
    from openai.types.chat import ChatCompletionChunk

_PROMPT = "Tonight 41 orders went out on time and 2 were late, one of them by a day."
_LONGEST_LIFE_S = 600


@dataclass(frozen=True, slots=True)
class Overheard:
    """A request exactly as it went over the wire, for whoever listens there."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def token(self) -> str:
        """The access token in it."""
        return self.headers["authorization"].partition(" ")[2]


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that was read to its end. `streamed`: its first piece came before the provider sent the rest."""

    text: str
    pieces: int
    streamed: bool
    headers: Mapping[str, str]


class Agent:
    """The nightly report, a job on the platform. It holds a key of its own, made when it starts.

    Attributes:
        overheard: its model calls, as they went over the wire.
        refused: the id of the request that was refused.
        permitted: the id of the same request when it passed.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._evidence = ""
        self._openai: OpenAI | None = None
        self.overheard: list[Overheard] = []
        self.refused = ""
        self.permitted = ""

    def exchange_evidence(self, step: Step) -> None:
        """The agent exchanges its platform's token for one of the broker's.

        It has no password and no API key. It shows what the platform signed for this job, and proves with a DPoP proof
        that it holds a key. What it gets lives minutes, names it, and is bound to that key: useless to anybody else.
        """
        stage = self._stage
        self._evidence = stage.platform.identity_token(rule.SUBJECT, stage.url)
        form = exchange_form(self._evidence, resource=f"{stage.url}/openai/v1")
        now = stage.clock.now()
        request = build_token_request(stage.url, form, self._key, now=now, jti=new_id(stage.entropy))
        step.sent(
            f"POST /token\nsubject_token  {shortened(self._evidence)}\n{_claims(self._evidence, now)}\n"
            f"DPoP           {shortened(request.headers['DPoP'])}  (fresh, signed with the agent's key)"
        )
        answer = stage.http().post(request.url, content=request.body, headers=dict(request.headers))
        token = read_token_answer(answer.status_code, answer.headers, answer.content).access_token
        step.came(f"access_token   {shortened(token)}\n{_claims(token, now)}")
        gateway = f"{stage.url}/openai/v1"
        claims = access_token.verify(token, keys=self._published_keys(), issuer=stage.url, audience=gateway, now=now)
        thumbprint = jwk.from_key(self._key.public_key()).thumbprint
        lives_s = claims.expires_at - int(now)
        only = claims.audience == (gateway,)
        step.holds(
            "It verifies under the keys that the broker publishes, for the gateway alone.", only, claims.audience
        )
        step.holds("It names the agent that the rule says this job is.", claims.subject == rule.AGENT, claims.subject)
        step.holds("It is bound to the agent's key (cnf.jkt is its thumbprint).", claims.jkt == thumbprint, claims.jkt)
        step.holds("It ends in minutes.", 0 < lives_s <= _LONGEST_LIFE_S, f"{lives_s} s")
        step.facts.update(sub=claims.subject, jkt=claims.jkt, lives_s=lives_s, record=answer.headers["broker-record"])

    def stream_a_call(self, step: Step) -> None:
        """The agent calls a model through the plain openai SDK, and the answer streams.

        Two arguments make the SDK a client of the broker: `base_url`, and an `http_client` with BrokerAuth. The broker
        lets the agent's token go no further and adds the provider's key, which the agent never sees.
        """
        provider = self._stage.provider
        step.sent(
            f'OpenAI(base_url="{self._stage.url}/openai/v1", api_key="unused",\n'
            f"       http_client=httpx2.Client(auth=BrokerAuth(...)))\n"
            f'  .chat.completions.create(model="{rule.SMALL}", stream=True, messages=[...])'
        )
        answer = self._read(step, self._ask(rule.SMALL))
        step.holds("The answer is whole (the stand-in repeats what it is told).", answer.text == _PROMPT, answer.text)
        step.holds("Its first piece was here before the provider sent the rest.", answer.streamed, "all at once")
        arrived = provider.received[-1].headers.get("authorization", "(none)")
        step.came(f"the provider saw  authorization: {shortened(arrived)}")
        step.holds("The provider was sent its own key.", arrived == f"Bearer {provider.key}", arrived)
        seen = repr([(request.headers, request.body) for request in provider.received])
        sent = self.overheard[-1]
        leaked = [each for each in (sent.token, sent.headers["dpop"], self._evidence) if each in seen]
        step.holds("It never saw the agent's token, proof or evidence.", not leaked, leaked)
        step.holds("The agent never saw the provider's key.", provider.key not in f"{answer.headers}{answer.text}")
        step.facts.update(model=rule.SMALL, pieces=answer.pieces, record=answer.headers["broker-record"])

    def call_in_the_other_format(self, step: Step) -> None:
        """The agent calls the same provider through the plain anthropic SDK.

        The other wire format is another part of the gateway, with tokens of its own: BrokerAuth exchanges the same
        evidence for one. Policies, records and limits are the same.
        """
        from anthropic import Anthropic

        stage = self._stage
        step.sent(
            f'Anthropic(base_url="{stage.url}/anthropic", api_key="unused",\n'
            f"          http_client=httpx2.Client(auth=BrokerAuth(...)))\n"
            f'  .messages.create(model="{rule.SMALL}", max_tokens=100, messages=[...])'
        )
        auth = BrokerAuth(stage.url, lambda: self._evidence, proof_key=self._key)
        client = Anthropic(
            base_url=f"{stage.url}/anthropic", api_key="unused", http_client=stage.http(auth), max_retries=0
        )
        answer = client.messages.create(
            model=rule.SMALL, max_tokens=100, messages=[{"role": "user", "content": _PROMPT}]
        )
        text = "".join(block.text for block in answer.content if block.type == "text").strip()
        step.came(text)
        step.holds("The answer is whole.", text == _PROMPT, text)
        arrived = stage.provider.received[-1].headers
        step.holds(
            "The provider was sent its own key, as this format sends it.",
            arrived.get("x-api-key") == stage.provider.key,
        )
        step.holds("It never saw the agent's token.", "authorization" not in arrived, sorted(arrived))
        step.facts.update(model=rule.SMALL, input_tokens=answer.usage.input_tokens)

    def call_outside_ceiling(self, step: Step) -> None:
        """The agent asks for a model outside its ceiling: refused.

        The provider offers the large model and the broker's key would open it, but the agent's ceiling does not name
        it. A refusal is recorded like a permit, before it is given, and says what the caller can do about it.
        """
        from openai import PermissionDeniedError

        calls = len(self._stage.provider.received)
        step.sent(f'the same call with model="{rule.LARGE}"')
        try:
            stream = self._ask(rule.LARGE)
        except PermissionDeniedError as error:
            refusal = error
        else:
            stream.close()
            raise NotHeld("The call is refused.", f"it was answered with {stream.response.status_code}")
        step.came(f"{refusal.status_code} {_message(refusal.body)}")
        step.holds("The SDK raises its own PermissionDeniedError (403).", refusal.status_code == 403)
        reached = len(self._stage.provider.received) - calls
        step.holds("Nothing reached the provider.", reached == 0, f"{reached} requests")
        self.refused = refusal.response.headers["x-request-id"]
        step.facts.update(model=rule.LARGE, status=refusal.status_code, request=self.refused)

    def call_again(self, step: Step) -> None:
        """The agent makes the same call again: it passes.

        Nothing changed at the agent: same process, same key, same token. Every call is decided by the policies in force
        at that moment, so a change in either direction needs no restart and no new credential.
        """
        step.sent(f'the same call with model="{rule.LARGE}"')
        before = self.overheard[-1].token
        answer = self._read(step, self._ask(rule.LARGE))
        step.holds("The call that was refused now passes.", answer.text == _PROMPT, answer.text)
        step.holds("It was made with the same token.", self.overheard[-1].token == before, "a new one was fetched")
        self.permitted = answer.headers["broker-request-id"]
        step.facts.update(model=rule.LARGE, pieces=answer.pieces, request=self.permitted)

    def _ask(self, model: str) -> Stream[ChatCompletionChunk]:
        return self._sdk().chat.completions.create(
            model=model, stream=True, messages=[{"role": "user", "content": _PROMPT}]
        )

    def _read(self, step: Step, stream: Stream[ChatCompletionChunk]) -> _Answer:
        """Reads an answer piece by piece, as it comes."""
        provider = self._stage.provider
        pieces: list[str] = []
        early: list[bool] = []

        def arriving() -> Iterator[str]:
            for chunk in stream:
                if chunk.choices and (piece := chunk.choices[0].delta.content):
                    early.append(provider.holding)
                    provider.holding = False  # it keeps the rest back until its first word has arrived here
                    pieces.append(piece)
                    yield piece

        step.pieces(arriving())
        return _Answer("".join(pieces).strip(), len(pieces), early[:1] == [True], dict(stream.response.headers))

    def _sdk(self) -> OpenAI:
        if self._openai is None:
            from openai import OpenAI

            stage = self._stage
            auth = BrokerAuth(stage.url, lambda: self._evidence, proof_key=self._key)
            client = stage.http(auth, self._listen)
            self._openai = OpenAI(
                base_url=f"{stage.url}/openai/v1", api_key="unused", http_client=client, max_retries=0
            )
        return self._openai

    def _listen(self, request: httpx2.Request) -> None:
        if request.url.path != "/token":
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.overheard.append(Overheard(request.method, str(request.url), headers, request.read()))

    def _published_keys(self) -> dict[str, jwk.PublicKey]:
        found = self._stage.http().get("/.well-known/jwks.json").raise_for_status().json()
        return {key.kid: key for key in jwk.parse_set(found) if key.kid is not None}


def _claims(token: str, now: float) -> str:
    """What a token says, for a reader: not verified here."""
    said = jws.claims(jws.unverified(token).payload)
    lines = [f"  {name:<4} {said[name]}" for name in ("iss", "sub", "aud") if name in said]
    if isinstance(confirmed := said.get("cnf"), dict):
        lines.append(f"  cnf  jkt {confirmed.get('jkt')}")
    if isinstance(ends := said.get("exp"), int):
        lines.append(f"  exp  in {(ends - now) / 60:.0f} minutes")
    return "\n".join(lines)


def _message(body: object) -> str:
    return str(body.get("message")) if isinstance(body, dict) else str(body)
