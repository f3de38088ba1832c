"""`broker apply`: manifests, and the changes that wait for a second admin."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli import manifest_files
from broker.cli.output import Json, print_json, print_table, refusing, say, utc

commands = typer.Typer(
    invoke_without_command=True,
    help="""Makes the broker know what manifests describe: attesters, endpoints, agents, operators, policies.

A manifest is YAML or JSON. What it does not mention stays as it is; applied again, it changes nothing. It may hold:

    attesters:
      github: {kind: oidc, issuer: https://ci.example, audience: https://broker.example}
    endpoints:
      openai: {base_url: https://api.openai.com/v1, secret: openai, models: [gpt-4o-mini]}
    agents:
      triage: {owner: team-support, purpose: sorts tickets, ceiling: [openai/gpt-4o-mini]}
    operators:
      ada: {roles: [admin, auditor], key: THUMBPRINT}
    policies: {night.cedar: "the file's text, or null to remove it"}
    cases: {night.yaml: "likewise"}

Once there are two admins, one proposes what widens access and another approves it, and a sign-in link is for one key:
`broker login --new-key` prints its thumbprint on that person's machine. `new_link: true` makes another link.

Examples:

    broker apply -f broker.yaml --dry-run
    broker apply -f broker.yaml --dry-run --fail-on-difference
    broker apply -f agents.yaml -f endpoints.yaml
    render-manifest | broker apply -f -
    broker apply approve 3f9a1c
""",
)


class Section(StrEnum):
    """What can be shown."""

    ATTESTERS = "attesters"
    ENDPOINTS = "endpoints"
    AGENTS = "agents"
    OPERATORS = "operators"


Id = Annotated[str, typer.Argument(help="The change, as `broker apply list` names it; its beginning is enough.")]


@commands.callback()
def apply(
    context: typer.Context,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", "-f", help="A manifest; - is standard input. May be given several times.", metavar="FILE"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show the difference, and change nothing.")] = False,
    fail_on_difference: Annotated[
        bool,
        typer.Option(
            "--fail-on-difference", help="With --dry-run: exit code 1 if there is one, to notice drift in CI."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Proposes what manifests describe."""
    if context.invoked_subcommand is not None:
        if file or dry_run or fail_on_difference or json:
            raise typer.BadParameter(f"write options after `{context.invoked_subcommand}`; -f does not go with it")
        return
    if not file:
        raise typer.BadParameter("name a manifest, such as -f broker.yaml; - reads standard input", param_hint="--file")
    if fail_on_difference and not dry_run:
        raise typer.BadParameter(
            "it goes with --dry-run: what was applied is no drift", param_hint="--fail-on-difference"
        )
    with refusing(json):
        from broker.cli import outcomes
        from broker.cli.api import Api

        document = manifest_files.read(file)
        with Api() as api:
            outcome = api.post("/changes", document, dry_run=dry_run)
        outcomes.show(outcome, json=json)
        if fail_on_difference and outcome["status"] == "checked":
            raise typer.Exit(1)


@commands.command()
def show(
    section: Annotated[Section | None, typer.Argument(help="Only this; everything unless given.")] = None,
    json: Json = False,
) -> None:
    """Shows what is known now, in a manifest's words; keys appear as their thumbprints. Policies: `broker policy show`.

    Example: `broker apply show endpoints`
    """
    with refusing(json):
        from broker.cli.api import Api

        known: dict[str, dict[str, Any]] = {}
        with Api() as api:
            for name in [section] if section is not None else Section:
                pages = api.pages(f"/{name}", limit=None) if name is Section.AGENTS else [api.get(f"/{name}")]
                known[name.value] = {
                    item.get("name") or item["id"]: {k: v for k, v in item.items() if k not in ("name", "id")}
                    for page in pages
                    for item in page[name]
                }
        if json:
            print_json(known)
        else:
            say(manifest_files.write(known).rstrip())


@commands.command("list")
def list_changes(
    all: Annotated[bool, typer.Option("--all", help="Also what was decided.")] = False, json: Json = False
) -> None:
    """Lists the changes that wait for a second admin.

    Example: `broker apply list`
    """
    with refusing(json):
        found = [change for change in _changes() if all or change["status"] == "pending"]
        if json:
            print_json({"changes": found})
            return
        print_table(
            ("id", "status", "proposed by", "at", "decided by"),
            [(c["id"], c["status"], c["proposed_by"], utc(c["proposed_at"]), c["decided_by"]) for c in found],
            empty="No change waits for approval.",
        )


@commands.command()
def review(id: Id, json: Json = False) -> None:
    """Shows what waits for approval: who proposed it, and what approving it would change now.

    Example: `broker apply review 3f9a1c`
    """
    with refusing(json):
        from broker.cli import differences
        from broker.cli.api import Api

        whole = _pending(id)
        with Api() as api:
            found = api.get(f"/changes/{whole}")
        if json:
            print_json(found)
            return
        differences.show(found["differences"], found["reach"], whole=True)
        say(f"Proposed by {found['proposed_by']} at {utc(found['proposed_at'])}.")
        if found["stale"]:
            why = "what it touches has changed, or its proposer may not propose any more"
            say(f"It cannot be approved: {why}. It must be proposed again.", "bold red")
        else:
            say(f"To put it in force: broker apply approve {whole}")


@commands.command()
def approve(id: Id, json: Json = False) -> None:
    """Approves what another admin proposed, and puts it in force.

    A change's name is the hash of its manifest and of all that it would change: look at it with
    `broker apply review` first, and you approve what you saw or nothing.

    Example: `broker apply approve 3f9a1c`
    """
    with refusing(json):
        from broker.cli import outcomes
        from broker.cli.api import Api

        whole = _pending(id)
        with Api() as api:
            outcomes.show(api.post(f"/changes/{whole}/approve"), json=json)


@commands.command()
def withdraw(id: Id, json: Json = False) -> None:
    """Withdraws your own proposal, or refuses another admin's.

    Example: `broker apply withdraw 3f9a1c`
    """
    with refusing(json):
        from broker.cli.api import Api

        whole = _pending(id)
        with Api() as api:
            outcome = api.post(f"/changes/{whole}/withdraw")
        if json:
            print_json(outcome)
        else:
            say(f"The change {whole} is withdrawn.")


def _changes() -> list[dict[str, Any]]:
    from broker.cli.api import Api

    with Api() as api:
        found: list[dict[str, Any]] = api.get("/changes")["changes"]
    return found


def _pending(prefix: str) -> str:
    from broker.cli.api import one_of

    return one_of(prefix, [change["id"] for change in _changes() if change["status"] == "pending"], "pending changes")
