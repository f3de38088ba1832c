"""Which records: the options that searches and exports have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from broker.audit.events import Kind


class Outcome(StrEnum):
    """How a decision came out."""

    PERMIT = "permit"
    DENY = "deny"


Agent = Annotated[str, typer.Option("--agent", help="Whose records: an agent, or operator:NAME.")]
Owner = Annotated[str, typer.Option("--owner", help="Of agents that this team or person answers for.")]
Human = Annotated[
    str, typer.Option("--human", help="An operator, who approved, or the subject of an agent's evidence.")
]
Action = Annotated[str, typer.Option("--action", help="What was asked for: exchange, call, change, readTrail …")]
Policy = Annotated[str, typer.Option("--policy", help="Decided by this policy, or named by this enrolment rule.")]
OfKind = Annotated[Kind | None, typer.Option("--kind", help="Records of this kind.", metavar="KIND")]
WithOutcome = Annotated[Outcome | None, typer.Option("--outcome", help="How the decision came out.")]
Model = Annotated[str, typer.Option("--model", help="Calls to this model: endpoint/model.")]
RequestId = Annotated[str, typer.Option("--request-id", help="The records that one request left.")]
Since = Annotated[
    str, typer.Option("--since", help="Not before: 2026-11-23T09:30 (UTC), or 90m, 24h, 7d.", metavar="TIME")
]
Until = Annotated[str, typer.Option("--until", help="Before this time, written likewise.", metavar="TIME")]
