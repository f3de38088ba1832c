"""`broker policy`: try policies on this machine, and change the set that is in force."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from broker.cli.output import Json, plain, print_json, print_table, progress, refusing, say, utc

if TYPE_CHECKING:
    from broker.policy.cases import CaseResult

commands = typer.Typer(
    no_args_is_help=True,
    help="""The policies: look at them, try them, have a decision explained, change them.

`validate` and `test` work on a folder of this machine alone, without a broker.""",
)

Folder = Annotated[
    Path,
    typer.Argument(
        help="A folder with `*.cedar`, `cases/*.yaml`, and `schema.cedarschema` unless the shipped one will do.",
        exists=True,
        file_okay=False,
        metavar="DIR",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check, show the difference, and change nothing.")]


@commands.command()
def show(
    hash: Annotated[
        str, typer.Argument(help="An older set, by the beginning of its hash or its number.", metavar="[HASH]")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write the set's files into this new folder.", metavar="DIR")] = None,
    json: Json = False,
) -> None:
    """Shows the policies in force; with a folder, takes their texts away to be edited.

    Example: `broker policy show --out policies`
    """
    with refusing(json):
        from broker.cli.api import Api

        if out is None and not hash:
            with Api() as api:
                found = api.get("/policies")
            _show_set(found, json=json)
            return
        from broker.cli import policy_folder

        texts = _texts(hash)
        if out is not None:
            from broker.policy.shipped import PolicyFiles

            policy_folder.write(out, PolicyFiles(texts["schema"], texts["files"], texts["cases"]))
        if json:
            print_json(texts)
        elif out is not None:
            say(f"Wrote {len(texts['files'])} policy files and {len(texts['cases'])} case files to {out}.")
        else:
            for name, text in texts["files"].items():
                say(f"// ---- {name}", "bold")
                say(text)


@commands.command()
def validate(folder: Folder, json: Json = False) -> None:
    """Checks that policies and cases can be read and fit the vocabulary. Needs no broker.

    Example: `broker policy validate policies`
    """
    with refusing(json):
        from broker.cli import policy_folder
        from broker.policy import cases
        from broker.policy.engine import compile

        source, own = policy_folder.read(folder)
        policies = compile(source.schema, source.files)
        found = cases.parse(source.cases)
        if json:
            print_json({"hash": policies.hash, "policies": len(policies.policies), "cases": len(found)})
            return
        say(
            f"Valid against {'its own' if own else 'the shipped'} vocabulary: {len(policies.policies)} policies in "
            f"{len(source.files)} files, {len(found)} cases. The set's hash is {policies.hash}."
        )


@commands.command("test")
def run_cases(folder: Folder, json: Json = False) -> None:
    """Runs every case of a folder; exit code 1 if one fails. Needs no broker.

    Example: `broker policy test policies`
    """
    with refusing(json):
        from broker.cli import policy_folder
        from broker.policy import cases
        from broker.policy.engine import compile

        source, _ = policy_folder.read(folder)
        policies = compile(source.schema, source.files)
        found = cases.parse(source.cases)
        results: list[CaseResult] = []
        with progress("Cases", len(found), json=json) as done:
            for case in found:
                results += cases.run(policies, [case])
                done(len(results))
        gaps = cases.unexercised(policies, found)
        if json:
            print_json({"hash": policies.hash, "results": [_result(r) for r in results], "unexercised": gaps})
        else:
            _show_results(results, gaps)
        if not all(result.passed for result in results):
            raise typer.Exit(1)


@commands.command()
def explain(
    agent: Annotated[str, typer.Argument(help="The agent's name.")],
    model: Annotated[str, typer.Argument(help="The model as ceilings name it: endpoint/model.")],
    operation: Annotated[str, typer.Option(help="What is asked of the model.")] = "chat.completions",
    stream: Annotated[bool, typer.Option("--stream", help="Ask for a stream.")] = False,
    confirmation: Annotated[str, typer.Option(help="How the token is bound: dpop or none.")] = "dpop",
    json: Json = False,
) -> None:
    """Says whether an agent may call a model now, and which policies decide that. Nothing is called.

    Example: `broker policy explain nightly-summary openai/gpt-4o`
    """
    with refusing(json):
        from broker.cli.api import Api

        question = {
            "agent": agent,
            "model": model,
            "operation": operation,
            "stream": stream,
            "confirmation": confirmation,
        }
        with Api() as api:
            found = api.post("/policies/explain", question)
        if json:
            print_json(found)
            return
        say(found["summary"], "bold green" if found["permitted"] else "bold red")
        for line in found["lines"]:
            say(f"  - {line['text']}")
        say(f"Decided by the set {found['set_hash']}.")


@commands.command()
def activate(folder: Folder, dry_run: DryRun = False, json: Json = False) -> None:
    """Puts the set of a folder in force in place of the whole present one, if all its cases pass.

    Example: `broker policy activate policies --dry-run`
    """
    with refusing(json):
        from broker.cli import policy_folder

        source, own = policy_folder.read(folder)
        whole: dict[str, Any] = {"files": source.files, "cases": source.cases}
        if own:
            whole["schema"] = source.schema
        _propose(whole, dry_run=dry_run, json=json)


@commands.command()
def versions(json: Json = False) -> None:
    """Lists every activation of a set, newest first.

    Example: `broker policy versions`
    """
    with refusing(json):
        from broker.cli.api import Api

        with Api() as api:
            found = api.get("/policies")
        if json:
            print_json({name: found[name] for name in ("hash", "revision", "versions")})
            return
        print_table(
            ("", "set", "activated", "by", ""),
            [
                (
                    v["revision"],
                    v["hash"],
                    utc(v["activated_at"]),
                    v["activated_by"],
                    "in force" if v["revision"] == found["revision"] else "",
                )
                for v in found["versions"]
            ],
            empty="No set was ever in force.",
        )


@commands.command()
def rollback(
    hash: Annotated[str, typer.Argument(help="The set to return to, by the beginning of its hash or its number.")],
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Puts an older set in force again; it is checked and approved as any other.

    Example: `broker policy rollback 6c5f2b32`
    """
    with refusing(json):
        texts = _texts(hash)
        whole = {member: texts[member] for member in ("schema", "files", "cases")}
        _propose(whole, dry_run=dry_run, json=json)


def _texts(prefix: str) -> dict[str, Any]:
    """The texts of a set that was in force once, by its hash or the number that `versions` shows; "" is the present."""
    from broker.cli.api import Api, one_of

    with Api() as api:
        wanted = "active"
        if prefix:
            known = api.get("/policies")["versions"]
            numbers = [str(v["revision"]) for v in known]
            wanted = prefix if prefix in numbers else one_of(prefix, [v["hash"] for v in known], "policy sets")
        found: dict[str, Any] = api.get(f"/policies/{wanted}")
    return found


def _propose(whole: dict[str, Any], *, dry_run: bool, json: bool) -> None:
    from broker.cli import outcomes
    from broker.cli.api import Api

    with Api() as api:
        outcome = api.post("/changes", {"policy_set": whole}, dry_run=dry_run)
    outcomes.show(outcome, json=json)


def _show_set(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found)
        return
    print_table(
        ("policy", "effect", "decides", "where"),
        [(p["id"], p["effect"], p["action"], f"{p['file']}:{p['line']}") for p in found["policies"]],
        empty="No policy is in force, so everything is refused.",
    )
    say(f"\nThe set {found['hash']}, activation {found['revision']}.")


def _result(result: CaseResult) -> dict[str, object]:
    return {
        "file": result.file,
        "name": result.name,
        "passed": result.passed,
        "expected": result.expected,
        "permitted": result.got.permitted,
        "policies": result.got.policies,
        "limited_by": result.got.limited_by,
        "message": result.message,
    }


def _show_results(results: list[CaseResult], gaps: tuple[str, ...]) -> None:
    passed, failed = Text("pass", "green"), Text("FAIL", "bold red")
    print_table(
        ("", "file", "case", "decided by"),
        [(passed if r.passed else failed, r.file, r.name, r.got.policies) for r in results],
        empty="There is no case. Write some into cases/*.yaml: a set without cases says nothing of what it does.",
    )
    wrong = [result for result in results if not result.passed]
    for result in wrong:
        say(f"{plain(result.file)}: {result.name}: {result.message}", "red")
    for gap in gaps:
        say(f"Not tried: {gap}", "yellow")
    say(f"{len(results) - len(wrong)} of {len(results)} cases pass.", "bold red" if wrong else "bold green")
