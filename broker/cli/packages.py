"""`broker audit package, redecide`: take evidence of a period away, and make its decisions again."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.moments import moment
from broker.cli.output import Json, err, plain, print_json, refusing, say
from broker.cli.record_filters import Agent, Since, Until
from broker.errors import ConfigurationError

_SHOWN = 20


def package(
    folder: Annotated[Path, typer.Argument(help="Where to write it; made for it.", metavar="DIR")],
    since: Since = "",
    until: Until = "",
    agent: Agent = "",
    zip: Annotated[bool, typer.Option("--zip", help="Leave it one file, DIR.zip.")] = False,
    json: Json = False,
) -> None:
    """Takes an evidence package away: records, proofs, policies, inputs, a page to read, and a verifier in one file.

    Example: `broker audit package november --since 2026-11-01T00:00 --until 2026-12-01T00:00`
    """
    since_ms, until_ms = (moment(text) if text else None for text in (since, until))
    with refusing(json):
        from broker.cli import package_files
        from broker.cli.api import Api

        target = folder.with_name(folder.name + ".zip") if zip else folder
        if target.exists():
            raise ConfigurationError(f"{target} exists already; name another place for the package.")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".package-") as beside:
            file = Path(beside) / "package.zip"
            with Api() as api:
                api.save("/audit/package", file, since_ms=since_ms, until_ms=until_ms, agent=agent)
            if zip:
                package_files.check_whole(file)
                file.replace(target)
            else:
                package_files.unpack(file, Path(beside) / "package")
                (Path(beside) / "package").replace(target)
        if json:
            print_json({"package": str(target)})
            return
        say(f"Wrote {target}. It is verified without the broker, under the key that you pinned before:")
        say(f"  python -I {'verify.py' if zip else target / 'verify.py'} {target} --key log.vkey")


def redecide(
    package: Annotated[Path, typer.Argument(help="An evidence package: its folder, or ZIP file.", exists=True)],
    json: Json = False,
) -> None:
    """Makes every recorded decision of a package again, offline, and compares. Exit code 1 unless all of them agree.

    Verify the package first: this asks whether the decisions follow from the inputs, not whether the records are real.
    What was withheld, erased or never told is counted as what could not be decided.

    Example: `broker audit redecide november`
    """
    with refusing(json):
        from broker.cli import package_files
        from broker.policy.redecide import Verdict, redecide

        counts: Counter[Verdict] = Counter()
        others: list[dict[str, Any]] = []
        whys: Counter[str] = Counter()
        with package_files.opened(package) as opened:
            sets, slices = package_files.Sets(opened), package_files.Slices(opened)
            of = package_files.scope_agent(opened)
            for index, kind, groups in package_files.records(opened):
                for found in redecide(kind, groups, sets.compiled, slices.read, of=of):
                    counts[found.verdict] += 1
                    if found.verdict is Verdict.UNDECIDED:
                        whys[found.why] += 1
                    if found.verdict is Verdict.DIFFERS and len(others) < _SHOWN:
                        others.append({"index": index, "action": found.action, "why": found.why})
        held = counts[Verdict.AGREES] > 0 and not counts[Verdict.DIFFERS] and not counts[Verdict.UNDECIDED]
        if json:
            told = {verdict.name.lower(): counts[verdict] for verdict in Verdict}
            print_json({**told, "agreed": held, "differing": others, "why_undecided": dict(whys)})
        else:
            for verdict in Verdict:
                say(f"{counts[verdict]:>8}  {verdict}", "bold red" if verdict is Verdict.DIFFERS and others else "")
            for other in others:
                say(f"Record {other['index']}, {other['action']}: {other['why']}.", "red")
            for why, count in whys.most_common(_SHOWN):
                err.print(plain(f"{count} could not be decided: {why}."), markup=False)
        if not held:
            raise typer.Exit(1)
