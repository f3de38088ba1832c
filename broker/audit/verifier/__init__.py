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
    """The program, as packages bring it: where it imports a part of its own, the part stands instead."""
    place = files(__package__)

    def part(found: re.Match[str]) -> str:
        return _HEAD.sub("", place.joinpath(f"{found[1]}.py").read_text("utf-8")).lstrip("\n") + "\n\n"

    return _IMPORT.sub(part, place.joinpath("verify.py").read_text("utf-8")).encode()
