"""The fleet that asks: service accounts of a cluster, each running in several pods with keys of their own.

Everything is signed before it is sent, outside of what is measured. The evidence is what a Kubernetes API server signs
for a pod (a projected service account token, ES256), claim by claim.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric import ec

from broker.clock import SystemClock
from broker.entropy import new_id, system_entropy
from broker.formats import dpop, jwk, jws

ISSUER = "https://cluster.example"
NAMESPACE = "agents"
ACCOUNTS = 30
PODS = 10
"""Pods of each account: 300 instances in all."""

EVIDENCE_LIFETIME_S = 600
MODEL = "bench-small"
CALL_PATH = "/openai/v1/chat/completions"
CALLS = ("streamed", "plain")

_PROMPT = "Summarise the ticket below for the morning report in three sentences, names left out. " * 12
_CLIENT = (
    "accept: */*\r\naccept-encoding: gzip, deflate\r\nconnection: keep-alive\r\nuser-agent: python-httpx2/2.16\r\n"
)


@dataclass(frozen=True, slots=True)
class Instance:
    """A pod with its own key."""

    account: str
    pod: str
    uid: str
    key: ec.EllipticCurvePrivateKey


def call_body(kind: str) -> str:
    """A chat completion as clients write it, some 1.2 kB."""
    stream = {"stream": True, "stream_options": {"include_usage": True}} if kind == "streamed" else {}
    messages = [
        {"role": "system", "content": "You are a careful assistant."},
        {"role": "user", "content": _PROMPT},
    ]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 200, **stream}, separators=(",", ":"))


@dataclass(slots=True)
class Fleet:
    """Who asks, and what they sign.

    Args:
        url: the broker's.
        instances: all of them.
    """

    url: str
    issuer_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    instances: Sequence[Instance] = field(default_factory=lambda: tuple(_instances()))
    _clock: SystemClock = field(default_factory=SystemClock)
    _standing: dict[int, tuple[str, float]] = field(default_factory=dict)

    @property
    def jwks(self) -> dict[str, object]:
        """The cluster's public keys."""
        return {"keys": [{**jwk.to_members(self.issuer_key.public_key()), "kid": "cluster-1", "alg": "ES256"}]}

    def evidence(self, instance: Instance) -> str:
        """A new token of the cluster for one pod."""
        now = int(self._clock.now())
        claims = {
            "aud": [self.url],
            "exp": now + EVIDENCE_LIFETIME_S,
            "iat": now,
            "iss": ISSUER,
            "jti": new_id(system_entropy),
            "kubernetes.io": {
                "namespace": NAMESPACE,
                "node": {"name": "node-3", "uid": "8a5a2a3c-2f1d-4f43-9d59-0f6a5b4c7e11"},
                "pod": {"name": instance.pod, "uid": instance.uid},
                "serviceaccount": {"name": instance.account, "uid": "5d0d8b1e-6e7a-4f0b-8f35-0f8f5f5f3a22"},
            },
            "nbf": now,
            "sub": f"system:serviceaccount:{NAMESPACE}:{instance.account}",
        }
        return jws.sign({"alg": "ES256", "kid": "cluster-1"}, claims, self.issuer_key)

    def exchanges(self, number: int, *, again: bool = False) -> list[bytes]:
        """Requests at the token endpoint, one instance after the other.

        Args:
            number: how many.
            again: whether each instance shows the evidence that it showed before, as one that renews does; else every
                request has new evidence.
        """
        return [self._exchange(place % len(self.instances), again) for place in range(number)]

    def calls(self, number: int, tokens: Sequence[str], kind: str) -> list[bytes]:
        """Calls with fresh proofs.

        Args:
            number: how many.
            tokens: one for each instance.
            kind: one of `CALLS`.
        """
        body = call_body(kind)
        places = (place % len(tokens) for place in range(number))
        return [self._call(self.instances[place], tokens[place], body) for place in places]

    def _exchange(self, place: int, again: bool) -> bytes:
        instance = self.instances[place]
        evidence = self._standing_evidence(place) if again else self.evidence(instance)
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": evidence,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }
        proof = self._proof(instance, "/token", None)
        headers = f"content-type: application/x-www-form-urlencoded\r\ndpop: {proof}\r\n"
        return self._post("/token", headers, urlencode(form))

    def _standing_evidence(self, place: int) -> str:
        """What an instance shows again and again, renewed in time before it ends."""
        evidence, until = self._standing.get(place, ("", 0.0))
        now = self._clock.now()
        if now >= until:
            evidence, until = self.evidence(self.instances[place]), now + EVIDENCE_LIFETIME_S / 2
            self._standing[place] = (evidence, until)
        return evidence

    def _call(self, instance: Instance, token: str, body: str) -> bytes:
        proof = self._proof(instance, CALL_PATH, token)
        headers = f"content-type: application/json\r\nauthorization: DPoP {token}\r\ndpop: {proof}\r\n"
        return self._post(CALL_PATH, headers, body)

    def _proof(self, instance: Instance, path: str, token: str | None) -> str:
        return dpop.prove(
            instance.key,
            method="POST",
            url=self.url + path,
            now=self._clock.now(),
            jti=new_id(system_entropy),
            access_token=token,
        )

    def _post(self, path: str, headers: str, body: str) -> bytes:
        host = self.url.partition("://")[2]
        head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{_CLIENT}{headers}content-length: {len(body)}\r\n\r\n"
        return head.encode() + body.encode()


def direct_call(port: int, key: str, kind: str) -> bytes:
    """The same call straight to the provider."""
    body = call_body(kind)
    headers = f"content-type: application/json\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{_CLIENT}{headers}{body}".encode()


def _instances() -> Iterator[Instance]:
    numbers = count(1)
    for pod in range(PODS):
        for account in range(ACCOUNTS):
            name = f"account-{account:02}"
            uid = f"c1f0e0d4-93a5-4c43-a7c0-{next(numbers):012}"
            yield Instance(name, f"{name}-6f9c7d5b8-{pod:05}", uid, ec.generate_private_key(ec.SECP256R1()))
