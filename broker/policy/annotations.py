"""What may be written over a policy with `@`, and the enrolment rule that annotations make.

Cedar gives annotations no meaning and takes any name. Ours mean something, so an unknown name is refused: a
misspelt `@cieling` would otherwise be a ceiling that is silently not there.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from broker.errors import PolicyInvalid
from broker.policy.request import Policy
from broker.policy.source import refusal

ENROL = "enrol"

KNOWN = frozenset(
    {
        "id",
        "title",
        "advice",
        "factor",
        "agent",
        "agent_prefix",
        "agent_claims",
        "owner",
        "purpose",
        "ceiling",
    }
)
_ENROLMENT_ONLY = KNOWN - {"id", "title", "advice", "factor"}
_MAX_CHARS = 500

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,119}")
_AGENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~%/@:-]{0,199}")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~/@:-]{0,99}(?<!/)/")
_CLAIM = re.compile(r"[^\s,]{1,200}")
_CEILING_ENTRY = re.compile(r"[a-z0-9][a-z0-9-]{0,62}/(?:\*|[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127})")


@dataclass(frozen=True, slots=True)
class EnrolmentRule:
    """Which agent some evidence is, as one permit on `enrol` says.

    Args:
        policy: the policy's `@id`.
        agent: the one agent that it names, or None.
        prefix: what the names of its agents begin with, when `claims` make the rest; "" for nothing.
        claims: the claims whose values make the rest of the name, in order; empty if `agent` is given.
        owner: who answers for its agents, fixed by the rule, or None if their registration says.
        purpose: what they are for, or None.
        ceiling: the entries `endpoint/model` or `endpoint/*` that it fixes; None exactly if `owner` is.
    """

    policy: str
    agent: str | None
    prefix: str
    claims: tuple[str, ...]
    owner: str | None
    purpose: str | None
    ceiling: tuple[str, ...] | None


def enrolment_rule(policy: Policy) -> EnrolmentRule:
    """Reads the rule off a permit on `enrol`. A compiled set holds only permits that can be read.

    Raises:
        PolicyInvalid: it is no enrolment rule, or its annotations contradict each other.
    """
    notes = policy.annotations

    def wrong(message: str) -> PolicyInvalid:
        return refusal(policy.file, message, line=policy.line, policy=policy.id)

    if policy.effect != "permit" or policy.action != (ENROL,):
        raise wrong('an enrolment rule is a permit with action == Action::"enrol" and no other action.')
    agent, claims, prefix = notes.get("agent"), notes.get("agent_claims"), notes.get("agent_prefix")
    if (agent is None) == (claims is None):
        raise wrong(
            "say which agent this evidence is: either @agent with its name, or @agent_claims with the claims "
            "that make the name."
        )
    if claims is None and prefix is not None:
        raise wrong("@agent_prefix goes with @agent_claims; with @agent, write the whole name.")
    if agent is not None and not _AGENT.fullmatch(agent):
        raise wrong(f"@agent({agent!r}) is no name; use at most 200 letters, digits and . _ ~ % / @ : -")
    if prefix is not None and not _PREFIX.fullmatch(prefix):
        raise wrong(f'@agent_prefix({prefix!r}) must be a name that ends with /, such as "ci/".')
    names = tuple(name.strip() for name in claims.split(",")) if claims is not None else ()
    if not all(_CLAIM.fullmatch(name) for name in names) or len(set(names)) != len(names):
        raise wrong(f'@agent_claims({claims!r}) must be different claims, commas between: "repository,environment".')
    ceiling = notes.get("ceiling")
    entries = tuple(ceiling.split()) if ceiling is not None else None
    if entries is not None and (not entries or not all(_CEILING_ENTRY.fullmatch(entry) for entry in entries)):
        raise wrong(f"@ceiling({ceiling!r}) must be entries endpoint/model or endpoint/* with spaces between.")
    if (entries is None) != ("owner" not in notes) or ("purpose" in notes and entries is None):
        raise wrong("@owner and @ceiling go together, with or without @purpose: a rule fixes both or neither.")
    return EnrolmentRule(policy.id, agent, prefix or "", names, notes.get("owner"), notes.get("purpose"), entries)


def check(policy: Policy) -> None:
    """Refuses a policy whose annotations do not say something sensible.

    Raises:
        PolicyInvalid: with file, line and policy.
    """

    def wrong(message: str) -> PolicyInvalid:
        return refusal(policy.file, message, line=policy.line, policy=policy.id)

    if not policy.id:
        raise wrong('every policy needs a name of its own: write @id("…") over it. Decisions are recorded by it.')
    if not _ID.fullmatch(policy.id):
        raise wrong("an @id is 1 to 120 letters, digits and . _ / -, beginning with a letter or digit.")
    for name, value in policy.annotations.items():
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean @{near[0]}?" if near else f"known are {', '.join(sorted(KNOWN))}."
            raise wrong(f"unknown annotation @{name}; {hint}")
        if not value.strip() or len(value) > _MAX_CHARS or not value.isprintable():
            raise wrong(f"@{name} needs a text in one line of at most {_MAX_CHARS} characters.")
    if "factor" in policy.annotations and (policy.effect, policy.annotations["factor"]) != (
        "forbid",
        "ceiling",
    ):
        raise wrong('@factor can only be "ceiling", on a forbid that holds agents inside their ceiling.')
    if policy.effect == "permit" and ENROL in policy.action:
        enrolment_rule(policy)
        return
    misplaced = _ENROLMENT_ONLY & policy.annotations.keys()
    if misplaced:
        raise wrong(f"@{min(misplaced)} belongs to enrolment rules: permits on the action enrol.")
