"""`python -m tests.bench.document`: puts the figures of the last run into `docs/performance.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from tests.bench import results
from tests.bench.processes import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"


def filled(text: str, section: str, content: str) -> str:
    """The document with one section's content replaced.

    Args:
        text: the document.
        section: stands between `<!-- section -->` and `<!-- /section -->`.
        content: what shall stand there.

    Raises:
        ValueError: the document has no such section.
    """
    begin, end = f"<!-- {section} -->\n", f"<!-- /{section} -->"
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"the document has no section between {begin.strip()} and {end}")
    return f"{before}{begin}\n{content.strip()}\n\n{end}{after}"


def figures(read: Mapping[str, Any]) -> str:
    """The results of a file as a table, under the machine that they were measured on."""
    machine = read["machine"]
    on = (
        f"On {machine['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB, Linux {machine['kernel']}, "
        f"{machine['file_system']}, Python {machine['python']}, load before {machine['load_before'][0]}."
    )
    return f"{on}\n\n{results.table(results.parse(read))}"


def main() -> int:
    """Fills in what there is; returns the exit code."""
    text = DOCUMENT.read_text("utf-8")
    found = False
    if results.FILE.is_file():
        text = filled(text, "results", figures(json.loads(results.FILE.read_text("utf-8"))))
        found = True
    if results.PROFILE.is_file():
        text = filled(text, "profile", results.PROFILE.read_text("utf-8"))
        found = True
    if not found:
        sys.stderr.write(f"document: neither {results.FILE} nor {results.PROFILE} is here; run `make bench` first\n")
        return 1
    DOCUMENT.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
