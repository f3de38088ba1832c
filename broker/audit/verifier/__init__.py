"""The program that verifies an evidence package with nothing of the broker: one file, put together from its parts.

`python -m broker.audit.verifier` prints it, for whoever wants it from the source and not from a package.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_IMPORT = re.compile(r"^from broker\.audit\.verifier\.(\w+) import (?:\([^)]*\)|.*)\n", re.MULTILINE)
_HEAD = re.compile(r'\A""".*?"""\n\nfrom __future__ import annotations\n', re.DOTALL)
"""What a part needs only where it stands alone."""


@cache
def text() -> bytes:
    """The program, as packages bring it: where a part of its own is imported first, it stands instead."""
    place, seen = files(__package__), set[str]()

    def part(found: re.Match[str]) -> str:
        name = found[1]
        if name in seen:
            return ""
        seen.add(name)
        return _HEAD.sub("", whole(name)).lstrip("\n") + "\n\n"

    def whole(name: str) -> str:
        return _IMPORT.sub(part, place.joinpath(f"{name}.py").read_text("utf-8"))

    return whole("verify").encode()
