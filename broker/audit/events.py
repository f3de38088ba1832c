"""The closed catalogue of what is recorded.

An event is sorted into the seven groups of `broker.formats.record.GROUPS`, so that an auditor can be shown some and not
others. Prompts, answers, tokens and keys never stand in one; digests and thumbprints do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from broker.audit.inputs import Input

Group = Mapping[str, object]

BROKER = "broker"
"""Whose records are the broker's own."""

UNKNOWN = "unknown"
"""Whose records are of evidence that names nobody."""


class Kind(StrEnum):
    """Every kind of record there is. Adding one is a change of the catalogue, reviewed as such."""

    BROKER_STARTED = "BrokerStarted"
    BROKER_STOPPED = "BrokerStopped"
    TOKEN_ISSUED = "TokenIssued"  # noqa: S105  a kind of record, no secret
    TOKEN_REFUSED = "TokenRefused"  # noqa: S105  a kind of record, no secret
    TOKEN_ABANDONED = "TokenAbandoned"  # noqa: S105  a kind of record, no secret
    AGENT_ENROLLED = "AgentEnrolled"
    AGENT_CONTAINED = "AgentContained"
    CALL_ADMITTED = "CallAdmitted"
    CALL_REFUSED = "CallRefused"
    CALL_COMPLETED = "CallCompleted"
    CALL_FAILED = "CallFailed"
    CALL_ABANDONED = "CallAbandoned"
    REFUSALS_COUNTED = "RefusalsCounted"
    CHANGE_PROPOSED = "ChangeProposed"
    CHANGE_REFUSED = "ChangeRefused"
    CHANGE_ACTIVATED = "ChangeActivated"
    CHANGE_ABANDONED = "ChangeAbandoned"
    KEY_PUBLISHED = "KeyPublished"
    KEY_IN_USE = "KeyInUse"
    KEY_ENDED = "KeyEnded"
    LOG_KEY_ROTATED = "LogKeyRotated"
    LOG_KEY_ENDED = "LogKeyEnded"
    RECORDS_ERASED = "RecordsErased"
    LINK_ISSUED = "LinkIssued"
    OPERATOR_SIGNED_IN = "OperatorSignedIn"
    OPERATOR_REFUSED = "OperatorRefused"
    TRAIL_READ = "TrailRead"
    SHARED_QUERY_CHANGED = "SharedQueryChanged"


ABANDONED: Mapping[Kind, Kind] = {
    Kind.TOKEN_ISSUED: Kind.TOKEN_ABANDONED,
    Kind.CALL_ADMITTED: Kind.CALL_ABANDONED,
    Kind.CHANGE_ACTIVATED: Kind.CHANGE_ABANDONED,
    Kind.CHANGE_PROPOSED: Kind.CHANGE_ABANDONED,
    Kind.AGENT_CONTAINED: Kind.CHANGE_ABANDONED,
    Kind.KEY_PUBLISHED: Kind.CHANGE_ABANDONED,
    Kind.KEY_IN_USE: Kind.CHANGE_ABANDONED,
    Kind.KEY_ENDED: Kind.CHANGE_ABANDONED,
    Kind.LOG_KEY_ROTATED: Kind.CHANGE_ABANDONED,
    Kind.LOG_KEY_ENDED: Kind.CHANGE_ABANDONED,
    Kind.SHARED_QUERY_CHANGED: Kind.CHANGE_ABANDONED,
}
"""What closes a record whose caller was not told of it."""


def why_abandoned(end: Kind) -> str:
    """What the closing record says: a grant that nobody received came to nothing, a change took effect all the same."""
    if end is Kind.CHANGE_ABANDONED:
        return "it took effect; its caller had left, or was told that it may have"
    return "its caller had left, or was told that nothing was done"


CALL_ENDS = frozenset({Kind.CALL_COMPLETED, Kind.CALL_FAILED, Kind.CALL_ABANDONED})
"""The kinds that close a `CallAdmitted` with the same request id."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, or is about to.

    Args:
        kind: from the catalogue.
        agent: the principal whose running number this takes: an agent's or operator's id, "broker" for itself.
        at: seconds since the epoch.
        request_id: joins the records of one request.
        who: agent, instance, thumbprint of its key.
        for_whom: owner, subject, chain of delegation.
        what: action, resource, model.
        decision: outcome (`permit`, `deny`), policies, hash of the set, limiting factor, and what was asked
            (`broker.policy.decided`).
        request: what else identifies the request (the id and the time are added).
        posture: attester, evidence digest, confirmation.
        remedy: what was revoked, changed or mended, and why.
        inputs: what the decision names by digest; durable no later than the record.
    """

    kind: Kind
    agent: str
    at: float
    request_id: str
    who: Group | None = None
    for_whom: Group | None = None
    what: Group | None = None
    decision: Group | None = None
    request: Group | None = None
    posture: Group | None = None
    remedy: Group | None = None
    inputs: tuple[Input, ...] = ()

    @property
    def at_ms(self) -> int:
        """When it happened, in whole milliseconds since the epoch."""
        return int(self.at * 1000)

    def groups(self) -> dict[str, Group]:
        """The groups that hold anything, by name; times are whole milliseconds since the epoch."""
        request = {"id": self.request_id, "at_ms": self.at_ms, **(self.request or {})}
        named = {
            "who": self.who,
            "for_whom": self.for_whom,
            "what": self.what,
            "decision": self.decision,
            "request": request,
            "posture": self.posture,
            "remedy": self.remedy,
        }
        return {name: group for name, group in named.items() if group}
