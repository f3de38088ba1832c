"""`broker audit erase`: records forget what they say of somebody, and stay provable."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker.cli.moments import moment
from broker.cli.output import Json, print_json, refusing, say


def erase(
    agent: Annotated[str, typer.Option(help="Whose records: an agent, or operator:NAME.")],
    group: Annotated[
        list[str],
        typer.Option(help="To erase: who, for_whom, what, decision, request, posture or remedy.", metavar="GROUP"),
    ],
    before: Annotated[str, typer.Option(help="Records made before this time: 2026-11-23, or 365d.", metavar="TIME")],
    why: Annotated[str, typer.Option(help="What the record of it says.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Erases groups of one principal's records for good. Entries, proofs and all other groups stay as they are.

    Nobody may unless a policy permits the action `erase`. What was exported or bundled before is not reached, nor are
    backups; search finds the records no more by what was erased.

    Example: `broker audit erase --agent nightly --group who --group for_whom --before 365d --why "request 4711"`
    """
    before_ms = moment(before)
    if not yes and not json:
        typer.confirm(f"Erase {', '.join(group)} of the records of {agent}, for good?", abort=True)
    with refusing(json):
        from broker.cli.answers import Erased
        from broker.cli.api import Api

        erased, inputs, records = 0, 0, list[int]()
        after: int | None = -1
        with Api() as api:
            while after is not None:
                body: dict[str, Any] = {
                    "agent": agent, "groups": group, "before_ms": int(before_ms), "after": after, "why": why
                }  # fmt: skip
                done = api.post("/audit/erase", body, Erased)
                erased, inputs, after = erased + done["erased"], inputs + done["inputs"], done["next"]
                records += [] if done["record"] is None else [done["record"]]
        if json:
            print_json({"erased": erased, "inputs": inputs, "records": records})
            return
        if not records:
            say(f"Nothing to erase: no record of {agent} from before that time has such a group. Is the name right?")
            return
        said = f", as record {', '.join(map(str, records))} says" if records else ""
        what = f"{erased} records" + (f", {inputs} inputs of decisions" if inputs else "")
        say(f"{what} erased{said}.", "bold")
