"""Cedar: compiles a policy set and decides requests on it. The only importer of cedarpy.

Compiling parses every policy, validates it against the vocabulary, and prepares one slice per action, so that
a decision costs as much as the policies that could apply to its action and not as much as the set. Policy
text and entities are parsed once into handles; a decision hands over handles, three ids and the context.

Everything that is not a clean answer is a denial. Fails closed: an unknown action, principal or resource, a
request that does not fit the vocabulary, entities prepared for another vocabulary, and a policy that cannot
be evaluated, even when others would have permitted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cedarpy
from cedarpy import pst

from broker.errors import AccessDenied, Malformed, PolicyInvalid
from broker.formats import canonical_json
from broker.policy import parts
from broker.policy.annotations import check as check_annotations
from broker.policy.reads import Reads, reads
from broker.policy.request import (
    Decision,
    Entity,
    EntityRef,
    Evaluation,
    Policy,
    Request,
    Uid,
    Unmet,
    context_json,
    entities_json,
    mentioned,
    reference,
)
from broker.policy.source import MAX_POLICIES, SCHEMA_NAME, Statement, check_kinds, check_limits, refusal, statements

__all__ = [
    "Decision",
    "Entity",
    "EntityRef",
    "Evaluation",
    "Policy",
    "PolicySet",
    "PreparedEntities",
    "Request",
    "Uid",
    "Unmet",
    "compile",
]

_POSITION = re.compile(r"policy `policy(\d+)`")
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True, eq=False)
class PreparedEntities:
    """Entities that were checked against the vocabulary and parsed, to be reused and cached.

    Made by `PolicySet.prepare`; good for every set with the same vocabulary.
    """

    entities: Mapping[Uid, Entity]
    vocabulary: str
    _schema: cedarpy.Schema
    _handle: cedarpy.Entities


@dataclass(frozen=True, slots=True)
class _Slice:
    """The policies that can decide one action, parsed together. Cedar's `policy3` is `policies[3]`."""

    action: dict[str, str]
    policies: tuple[Policy, ...]
    handle: cedarpy.PolicySet


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """A compiled set. Made by `compile`, never changed, safe to share between threads.

    Args:
        schema: the vocabulary's text.
        files: the policy files' texts by name.
        hash: SHA-256 in hexadecimal over the RFC 8785 form of `{"schema": schema, "files": files}`.
        policies: every policy, by file name and then as they stand there.
    """

    schema: str
    files: Mapping[str, str]
    hash: str
    policies: tuple[Policy, ...]
    _vocabulary: str
    _schema: cedarpy.Schema
    _slices: Mapping[str, _Slice]
    _by_id: Mapping[str, Policy]
    _texts: Mapping[str, str]

    @property
    def actions(self) -> tuple[str, ...]:
        """The vocabulary's actions, sorted."""
        return tuple(sorted(self._slices))

    @property
    def vocabulary(self) -> str:
        """The vocabulary as Cedar prints it."""
        return str(self._schema)

    def deciding(self, action: str) -> tuple[Policy, ...]:
        """The policies that a request for this action is evaluated on; none for an unknown action."""
        found = self._slices.get(action)
        return found.policies if found else ()

    def takes(self, entities: PreparedEntities) -> bool:
        """Whether these were prepared for this set's vocabulary. Others are refused as an "error"."""
        return entities.vocabulary == self._vocabulary

    def prepare(self, entities: Sequence[Entity]) -> PreparedEntities:
        """Checks entities against the vocabulary and parses them.

        Raises:
            Malformed: an entity does not fit the vocabulary, or is there twice and differs.
        """
        handle = _parsed(entities, self._schema)
        known = MappingProxyType({entity.uid: entity for entity in entities})
        return PreparedEntities(known, self._vocabulary, self._schema, handle)

    def decide(self, request: Request, entities: PreparedEntities) -> Decision:
        """Answers a request. What the request or the entities contain never raises: it denies, by "error"."""
        return self.decision_of(self.evaluate(request, entities))

    def applying(self, request: Request, entities: PreparedEntities) -> tuple[Policy, ...]:
        """The permits that applied, sorted by id; none if the request is denied.

        Raises:
            AccessDenied: with reason "policy_error", if something could not be evaluated. Fails closed.
        """
        evaluation = self.evaluate(request, entities)
        if not evaluation.clean:
            raise AccessDenied("The policies could not be evaluated; see the record.", reason="policy_error")
        if not evaluation.permitted:
            return ()
        return tuple(self._by_id[policy] for policy in evaluation.reasons)

    def decision_of(self, evaluation: Evaluation) -> Decision:
        """What an evaluation means. Fails closed: one that is not clean denies, whatever else it says."""
        if not evaluation.clean:
            named = {policy for policy, _ in evaluation.failures if policy}
            if not evaluation.permitted:
                named.update(evaluation.reasons)
            return Decision(False, tuple(sorted(named)), self.hash, "error")
        if evaluation.permitted:
            return Decision(True, evaluation.reasons, self.hash, "")
        if not evaluation.reasons:
            return Decision(False, (), self.hash, "no-policy")
        ceiling = all("factor" in self._by_id[policy].annotations for policy in evaluation.reasons)
        return Decision(False, evaluation.reasons, self.hash, "ceiling" if ceiling else "policy")

    def evaluate(self, request: Request, entities: PreparedEntities) -> Evaluation:
        """Cedar's answer with everything that went wrong; `decide` is what callers want."""
        prepared = self._slices.get(request.action)
        if prepared is None:
            return Evaluation(False, problem=f"The vocabulary has no action {request.action!r}.")
        if not self.takes(entities):
            return Evaluation(False, problem="The entities were prepared for another vocabulary.")
        for uid in mentioned(request):
            if uid not in entities.entities:
                return Evaluation(False, problem=f'Nothing is known about {uid[0]} "{uid[1]}".')
        try:
            context = context_json(request.context)
        except Malformed as error:
            return Evaluation(False, problem=error.detail)
        answer = self._ask(request, prepared.action, context, prepared.handle, entities)
        diagnostics = answer.diagnostics
        if answer.decision is cedarpy.Decision.NoDecision:
            return Evaluation(False, problem="; ".join(diagnostics.errors) or "Cedar gave no decision.")
        names = diagnostics.id_annotations_by_reason
        return Evaluation(
            answer.allowed,
            tuple(sorted(names[reason] for reason in diagnostics.reasons)),
            tuple(_failure(error, prepared.policies) for error in diagnostics.errors),
        )

    def unmet(self, policy: str, request: Request, entities: PreparedEntities) -> tuple[Unmet, ...]:
        """The conditions of one policy that a request does not meet, with the values they looked at.

        For explanations: it evaluates each part of the policy alone, some hundred microseconds.
        """
        found = []
        text = self._texts[policy]
        action, context = self._slices[request.action].action, context_json(request.context)
        for whole in json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values():
            for part in parts.parts(whole):
                one = json.dumps({"templates": {}, "staticPolicies": {"part": part}, "templateLinks": []})
                try:
                    handle = cedarpy.PolicySet.from_json_str(one)
                except ValueError:  # nested too deep for its JSON reader, though not for Cedar
                    found.append(Unmet("a condition too long to be taken apart", ()))
                    continue
                if not self._ask(request, action, context, handle, entities).allowed:
                    condition = parts.scope_text(part) or parts.condition_text(str(handle))
                    found.append(Unmet(condition, parts.values_read(part, request, entities.entities)))
        return tuple(found)

    def reads(self, action: str) -> Reads | None:
        """What the policies on this action look at in evidence; None where their text does not tell."""
        texts = "\n".join(self._texts[policy.id] for policy in self.deciding(action))
        try:
            return reads(json.loads(cedarpy.policies_to_json_str(texts))["staticPolicies"].values())
        except (ValueError, RecursionError):  # nested too deep to be read, though not for Cedar
            return None

    def _ask(
        self,
        request: Request,
        action: dict[str, str],
        context: str,
        policies: cedarpy.PolicySet,
        known: PreparedEntities,
    ) -> cedarpy.AuthzResult:
        # Ids as mappings: half the cost of Cedar's syntax, and nothing to escape. The schema makes Cedar
        # refuse a request whose types or context do not fit the action.
        question = {
            "principal": reference(request.principal),
            "action": action,
            "resource": reference(request.resource),
            "context": context,
        }
        return cedarpy.is_authorized(question, policies, known._handle, self._schema)


def compile(schema: str, files: Mapping[str, str]) -> PolicySet:
    """Parses, validates and prepares a policy set.

    Args:
        schema: the vocabulary, in Cedar's schema syntax.
        files: the policy texts by file name, `[a-z0-9_-]+.cedar`.

    Raises:
        PolicyInvalid: with file, line and policy where they are known. Nothing of the set is usable then.
    """
    check_limits(schema, files)
    handle, actions = _vocabulary(schema)
    by_id: dict[str, Policy] = {}
    pieces: list[Statement] = []
    for file in sorted(files):
        for statement in statements(file, files[file]):
            policy = _described(statement, actions)
            check_annotations(policy)
            if policy.id in by_id:
                taken = f"{by_id[policy.id].file}, line {by_id[policy.id].line}"
                message = f'the @id "{policy.id}" is taken by {taken}; choose another.'
                raise refusal(file, message, line=statement.line)
            by_id[policy.id] = policy
            pieces.append(statement)
            if len(pieces) > MAX_POLICIES:
                raise PolicyInvalid(f"More than {MAX_POLICIES} policies; one rule can cover many agents.")
    _validate(by_id, pieces, handle)
    policies = tuple(by_id.values())
    return PolicySet(
        schema=schema,
        files=MappingProxyType(dict(files)),
        hash=hashlib.sha256(canonical_json.canonical({"schema": schema, "files": dict(files)})).hexdigest(),
        policies=policies,
        _vocabulary=hashlib.sha256(schema.encode()).hexdigest(),
        _schema=handle,
        _slices={action: _slice(action, policies, pieces) for action in actions},
        _by_id=by_id,
        _texts={policy.id: piece.text for policy, piece in zip(policies, pieces, strict=True)},
    )


def prove_validation(
    schema: cedarpy.Schema, action: str, validate: Callable[[str, cedarpy.Schema], cedarpy.ValidationResult]
) -> None:
    """Refuses to go on unless validation against this schema really tells right from wrong.

    cedarpy before 4.8.2 dropped an invalid schema silently, and then everything was valid.

    Args:
        schema: the vocabulary's handle.
        action: one of its actions.
        validate: what validates.

    Raises:
        PolicyInvalid: a sound policy was refused, or one with an attribute that does not exist was not.
    """
    sound = validate(f"{_scope(action)};", schema)
    unsound = validate(f"{_scope(action)} when {{ context.this_attribute_does_not_exist }};", schema)
    if not sound.validation_passed or unsound.validation_passed:
        raise refusal(SCHEMA_NAME, "policies cannot be validated against it; the engine refuses to run unchecked.")


def _vocabulary(schema: str) -> tuple[cedarpy.Schema, Mapping[str, frozenset[str]]]:
    """The schema's handle, and the actions one can ask for, each with itself and all groups it is in."""
    try:
        handle = cedarpy.Schema.from_str(schema, release_gil=True)
        # Entities that are checked against a schema bring its actions along, with their groups.
        listed = json.loads(str(cedarpy.Entities.from_json_str("[]", handle)))
    except ValueError as error:
        raise refusal(SCHEMA_NAME, f"{error}.") from error
    parents: dict[str, set[str]] = {}
    for entry in listed:
        if entry["uid"]["type"] != "Action":
            raise refusal(SCHEMA_NAME, f"{entry['uid']['type']} is in a namespace; the vocabulary has none.")
        parents[entry["uid"]["id"]] = {parent["id"] for parent in entry["parents"]}
    check_kinds(str(handle))
    # A mere group can be in a policy's scope and never in a request; validation knows which is which.
    askable = [action for action in sorted(parents) if cedarpy.validate_policies(_scope(action) + ";", handle)]
    if not askable:
        raise refusal(SCHEMA_NAME, "declares no action, so it would allow nothing and check nothing.")
    prove_validation(handle, askable[0], cedarpy.validate_policies)
    return handle, {action: _closure(action, parents) for action in askable}


def _scope(action: str) -> str:
    return f"permit (principal, action == Action::{json.dumps(action)}, resource)"


def _closure(action: str, parents: Mapping[str, set[str]]) -> frozenset[str]:
    found = {action}
    while more := set[str]().union(*(parents.get(name, ()) for name in found)) - found:
        found |= more
    return frozenset(found)


def _described(statement: Statement, actions: Mapping[str, frozenset[str]]) -> Policy:
    try:
        parsed = cedarpy.policies_to_pst(statement.text)
    except ValueError as error:
        raise refusal(statement.file, f"{error}.", line=statement.line) from error
    if parsed.templates:
        message = "templates (?principal, ?resource) are not supported; write the policy out."
        raise refusal(statement.file, message, line=statement.line)
    (policy,) = parsed.static_policies.values()  # a statement ends at its only semicolon
    match policy.action:
        case pst.ActionEq(entity):
            scope = tuple(action for action in actions if action == entity.id)
        case pst.ActionIn(entities):
            named = {entity.id for entity in entities}
            scope = tuple(action for action, groups in actions.items() if groups & named)
        case _:
            scope = tuple(actions)
    notes = MappingProxyType(dict(policy.annotations))
    return Policy(notes.get("id", ""), statement.file, statement.line, policy.effect, scope, notes)


def _validate(by_id: Mapping[str, Policy], pieces: Sequence[Statement], schema: cedarpy.Schema) -> None:
    result = cedarpy.validate_policies("\n".join(piece.text for piece in pieces), schema, release_gil=True)
    if result.validation_passed and not result.errors:
        return
    problems = []
    for error in result.errors[:_SHOWN_PROBLEMS]:
        policy = by_id.get(result.id_annotations_by_policy_id.get(error.policy_id, ""))
        if policy is None:
            problems.append(error.error)
            continue
        text = re.sub(r"^for policy `policy\d+`, ", "", error.error)
        problems.append(refusal(policy.file, f"{text}.", line=policy.line, policy=policy.id).detail)
    raise PolicyInvalid("\n".join(problems) or "The policies did not validate against the vocabulary.")


def _slice(action: str, policies: Sequence[Policy], pieces: Sequence[Statement]) -> _Slice:
    chosen = [index for index, policy in enumerate(policies) if action in policy.action]
    handle = cedarpy.PolicySet.from_str("\n".join(pieces[index].text for index in chosen), release_gil=True)
    return _Slice(reference(("Action", action)), tuple(policies[index] for index in chosen), handle)


def _parsed(entities: Sequence[Entity], schema: cedarpy.Schema) -> cedarpy.Entities:
    try:
        return cedarpy.Entities.from_json_str(entities_json(entities), schema)
    except ValueError as error:
        for entity in entities:  # Cedar does not say which; ask again, one by one
            try:
                cedarpy.Entities.from_json_str(entities_json([entity]), schema)
            except ValueError as cause:
                raise Malformed(f'{entity.uid[0]} "{entity.uid[1]}" does not fit the vocabulary: {cause}.') from error
        raise Malformed(f"The entities do not fit together: {error}.") from error


def _failure(error: str, policies: Sequence[Policy]) -> tuple[str, str]:
    place = _POSITION.search(error)
    if place is None:
        return "", error
    policy = policies[int(place[1])].id
    return policy, _POSITION.sub(f'policy "{policy}"', error)
