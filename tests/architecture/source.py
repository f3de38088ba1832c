"""The files of the checkout as the checks read them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
_LEFT_BEHIND = {".git", ".venv", ".hypothesis", "__pycache__", "broker-data", "build", "dist", "htmlcov"}


@dataclass(frozen=True)
class Source:
    """One Python file: `path` relative to the checkout with forward slashes, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        """The dotted name: `broker/policy/__init__.py` is `broker.policy`."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


Check = Callable[[Source], Iterable[str]]
"""Looks at one file and says what is wrong with it, one sentence each."""


def sources(*folders: str) -> Iterator[Source]:
    """Every Python file below these folders of the checkout."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))


def complaints(check: Check, *folders: str) -> list[str]:
    """What a check says about every Python file below these folders; fails if there is none to look at."""
    found = list(sources(*folders))
    assert found, f"no Python file below {folders}"
    return [f"{source.path}: {text}" for source in found for text in check(source)]


def committed_files() -> list[Path]:
    """Every file of the repository and of its next commit; where git cannot say, all files."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = []
    if any(listed):
        return [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file()
        and not any(part in _LEFT_BEHIND or part.endswith("_cache") for part in path.relative_to(ROOT).parts)
    ]
