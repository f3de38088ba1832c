"""Runs a Python program that can reach neither the network nor a folder.

    python -m broker.demo.sealed FOLDER PROGRAM ARGUMENT...

This shows that an honest program needs neither: whatever tries is refused and the program fails. It is no sandbox
against a program that wants out.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

_CLOSED = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system")
_FILES = frozenset({"open", "os.listdir", "os.scandir", "sqlite3.connect", "shutil.copyfile"})


def seal(folder: Path) -> None:
    """Closes the way to the network, to other programs, and to everything below `folder`; for good."""
    closed = folder.resolve()

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_CLOSED):
            raise PermissionError(f"sealed: {event} is closed to this process")
        if event in _FILES and isinstance(arguments[0], str | bytes | os.PathLike):
            path = Path(os.fsdecode(arguments[0])).resolve()
            if path.is_relative_to(closed):
                raise PermissionError(f"sealed: {path} is closed to this process")

    sys.addaudithook(refuse)


def main(folder: str, program: str, *arguments: str) -> None:
    """Seals this process and becomes the program."""
    sys.argv = [program, *arguments]
    seal(Path(folder))
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
