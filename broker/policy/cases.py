"""Cases: examples of requests with the expected answer and reason, run before a policy set is activated.

How a case is written is in `case_files`. A denial by "error" passes only a case that says so with
`limited_by`, for a slip in the case itself would deny as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from broker.errors import Malformed
from broker.policy.annotations import enrolment_rule
from broker.policy.case_files import Case, Enrols, parse
from broker.policy.engine import PolicySet
from broker.policy.request import Decision, Entity, Evaluation, Policy

__all__ = ["Case", "CaseResult", "Enrols", "NamesAgent", "parse", "run", "unexercised"]

NamesAgent = Callable[[tuple[Policy, ...], Entity], Enrols]
"""Takes the enrolment rules that applied and the evidence, gives the agent. Identity has the real one."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of a case. `message` is "" if it passed, else it says what was expected and what came."""

    name: str
    file: str
    passed: bool
    expected: str
    got: Decision
    message: str


def run(policy_set: PolicySet, cases: Iterable[Case], names_agent: NamesAgent | None = None) -> tuple[CaseResult, ...]:
    """Decides every case. Depends on nothing but its arguments.

    Args:
        policy_set: the set to try.
        cases: the cases, answered in their order.
        names_agent: makes the name of an enrolled agent. Without it, a name that a rule makes of claims is
            checked for its prefix only.
    """
    return tuple(_run(policy_set, case, names_agent) for case in cases)


def unexercised(policy_set: PolicySet, cases: Sequence[Case]) -> tuple[str, ...]:
    """What the cases leave untried.

    Each policy needs a case that it decides, and one of the same action that goes the other way without it.
    """
    gaps = []
    for policy in policy_set.policies:
        about = [case for case in cases if case.request.action in policy.action]
        if not any(policy.id in case.reasons for case in about):
            gaps.append(f"{policy.file}, policy {policy.id!r}: no case that it {policy.effect}s.")
        if not any(policy.id not in case.reasons and case.permitted != (policy.effect == "permit") for case in about):
            gaps.append(f"{policy.file}, policy {policy.id!r}: no case that goes the other way without it.")
    return tuple(gaps)


def _run(policy_set: PolicySet, case: Case, names_agent: NamesAgent | None) -> CaseResult:
    expected = _words(case.permitted, case.reasons, case.limited_by or "")
    evaluation = _evaluated(policy_set, case)
    got = policy_set.decision_of(evaluation)
    limit_fits = got.limited_by == case.limited_by if case.limited_by else got.limited_by != "error"
    wrong = ""
    if got.permitted != case.permitted or got.policies != case.reasons or not limit_fits:
        why = evaluation.problem or "; ".join(words for _, words in evaluation.failures)
        wrong = _words(got.permitted, got.policies, got.limited_by) + (f": {why}" if why else "")
    elif case.enrols:
        wrong = _wrong_agent(policy_set, case, case.enrols, names_agent)
        expected = f"{case.enrols}" if wrong else expected
    message = f"expected {expected}; got {wrong}" if wrong else ""
    return CaseResult(case.name, case.file, not wrong, expected, got, message)


def _evaluated(policy_set: PolicySet, case: Case) -> Evaluation:
    try:
        return policy_set.evaluate(case.request, policy_set.prepare(case.entities))
    except Malformed as error:
        return Evaluation(False, problem=error.detail)


def _words(permitted: bool, reasons: Sequence[str], limited_by: str) -> str:
    limit = f" ({limited_by})" if limited_by else ""
    return f"{'permit' if permitted else 'deny'}{limit} by [{', '.join(reasons)}]"


def _wrong_agent(policy_set: PolicySet, case: Case, wanted: Enrols, names_agent: NamesAgent | None) -> str:
    """What the rules make of the evidence, if it is not what is wanted; else ""."""
    entities = policy_set.prepare(case.entities)
    applied = policy_set.applying(case.request, entities)
    if names_agent:
        made = names_agent(applied, entities.entities[case.request.principal])
        fits = made.agent == wanted.agent and _fixes(made.owner, made.ceiling, wanted)
        return "" if fits else f"{made}"
    for rule in map(enrolment_rule, applied):
        named = wanted.agent == rule.agent if rule.agent else wanted.agent.startswith(rule.prefix)
        if not named or not _fixes(rule.owner, rule.ceiling, wanted):
            return f"{rule}"
    return ""


def _fixes(owner: str | None, ceiling: tuple[str, ...] | None, wanted: Enrols) -> bool:
    if wanted.owner not in {None, owner}:
        return False
    return wanted.ceiling is None or sorted(wanted.ceiling) == sorted(ceiling or ())
