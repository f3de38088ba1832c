"""Why a request was permitted or denied, for people who do not know Cedar, and as data for `--json`."""

from __future__ import annotations

from dataclasses import dataclass

from broker.policy.engine import PolicySet, PreparedEntities
from broker.policy.request import Decision, Effect, Evaluation, Policy, Request, Unmet

MAX_CLOSEST = 3
"""How many permits that nearly applied are shown."""

MAX_EXAMINED = 300
"""How many permits are looked at to find them; each costs some hundred microseconds."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one policy had to say.

    Args:
        policy: its `@id`.
        effect: "permit" or "forbid".
        matched: whether it applied. False for a permit that nearly did, and for a policy that failed.
        advice: its `@advice`, or "".
        text: the whole thing as a sentence.
    """

    policy: str
    effect: Effect
    matched: bool
    advice: str
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with its reasons in words: one sentence for all, and a line for each policy that matters."""

    decision: Decision
    summary: str
    lines: tuple[Line, ...]

    @property
    def text(self) -> str:
        """All of it, for a terminal."""
        return "\n".join([self.summary, *(f"  - {line.text}" for line in self.lines)])

    def to_json(self) -> dict[str, object]:
        """All of it, for `--json` and the API."""
        return {
            "permitted": self.decision.permitted,
            "limited_by": self.decision.limited_by,
            "policies": list(self.decision.policies),
            "set_hash": self.decision.set_hash,
            "summary": self.summary,
            "lines": [
                {name: getattr(line, name) for name in ("policy", "effect", "matched", "advice", "text")}
                for line in self.lines
            ],
        }


def explain(policy_set: PolicySet, request: Request, entities: PreparedEntities) -> Explanation:
    """Decides a request and says why. Costs far more than `decide`; the decision is the same one."""
    evaluation = policy_set.evaluate(request, entities)
    decision = policy_set.decision_of(evaluation)
    by_id = {policy.id: policy for policy in policy_set.deciding(request.action)}
    if decision.limited_by == "error":
        return Explanation(decision, _error_summary(request, evaluation), _failed(evaluation, by_id))
    if decision.limited_by == "no-policy":
        closest = _closest(policy_set, request, entities)
        return Explanation(decision, _no_policy_summary(request, bool(closest)), closest)
    lines = tuple(_applied(by_id[policy]) for policy in decision.policies)
    if decision.permitted:
        return Explanation(decision, f"Permitted: {_asked(request)}.", lines)
    limit = " The ceiling stands in the way." if decision.limited_by == "ceiling" else ""
    return Explanation(decision, f"Denied: {_asked(request)}.{limit}", lines)


def _asked(request: Request) -> str:
    who, what = request.principal, request.resource
    facts = ", ".join(
        f"{name} {_shown(value)}" for name, value in sorted(request.context.items()) if isinstance(value, str | int)
    )
    return f'{who[0]} "{who[1]}" asks for {request.action} on {what[0]} "{what[1]}"' + (f" ({facts})" if facts else "")


def _error_summary(request: Request, evaluation: Evaluation) -> str:
    problem = evaluation.problem or "A policy could not be evaluated, so none of them counts."
    return f"Denied: {_asked(request)}, and that could not be decided. {problem}"


def _no_policy_summary(request: Request, near: bool) -> str:
    rest = "The closest are:" if near else "No policy is about this action."
    return f"Denied: {_asked(request)}. No policy permits this, and what none permits is refused. {rest}"


def _failed(evaluation: Evaluation, by_id: dict[str, Policy]) -> tuple[Line, ...]:
    return tuple(
        Line(name, by_id[name].effect, False, "", f"{name} in {by_id[name].file} failed: {words}.")
        for name, words in evaluation.failures
        if name in by_id
    )


def _applied(policy: Policy) -> Line:
    advice = policy.annotations.get("advice", "")
    verb = "Permitted" if policy.effect == "permit" else "Refused"
    text = f"{verb} by {policy.id}{_about(policy)}."
    return Line(policy.id, policy.effect, True, advice, f"{text} {advice}".rstrip())


def _closest(policy_set: PolicySet, request: Request, entities: PreparedEntities) -> tuple[Line, ...]:
    """The permits of the action that lack least. One for another kind of principal or resource comes last."""
    permits = [policy for policy in policy_set.deciding(request.action) if policy.effect == "permit"]
    near = []
    for policy in permits[:MAX_EXAMINED]:
        unmet = policy_set.unmet(policy.id, request, entities)
        elsewhere = any(part.condition.startswith(("principal ", "resource ")) for part in unmet)
        near.append((elsewhere, len(unmet), policy.id, policy, unmet))
    near.sort(key=lambda entry: entry[:3])
    fitting = [entry for entry in near if not entry[0]] or near
    return tuple(_nearly(policy, unmet) for *_, policy, unmet in fitting[:MAX_CLOSEST])


def _nearly(policy: Policy, unmet: tuple[Unmet, ...]) -> Line:
    wanted = "; ".join(_wanted(part) for part in unmet)
    text = f"{policy.id}{_about(policy)} would permit it if this held: {wanted}."
    return Line(policy.id, policy.effect, False, policy.annotations.get("advice", ""), text)


def _wanted(part: Unmet) -> str:
    found = ", ".join(
        f"{name} is {_shown(value)}" if value is not None else f"{name} is not there" for name, value in part.found
    )
    return f"{part.condition} (here {found})" if found else part.condition


def _about(policy: Policy) -> str:
    title = policy.annotations.get("title")
    return f" ({title})" if title else ""


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(_shown(item) for item in value)}]"
    return str(value)
