"""The seal: a sealed process has neither network nor the closed folder, and otherwise works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ATTEMPTS = {
    "connect": "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)",
    "resolve": "import socket; socket.getaddrinfo('localhost', 80)",
    "datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "read": "open('closed/secret.txt').read()",
    "read through a link": "open('way-in/secret.txt').read()",
    "list": "import os; os.listdir('closed')",
    "database": "import sqlite3; sqlite3.connect('closed/broker.db')",
    "another program": "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])",
}


def _run_sealed(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "closed").mkdir()
    (folder / "closed" / "secret.txt").write_text("secret")
    (folder / "way-in").symlink_to(folder / "closed")
    (folder / "open.txt").write_text("open")
    (folder / "program.py").write_text(program)
    command = [sys.executable, "-m", "broker.demo.sealed", "closed", "program.py", *arguments]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_way_out_is_closed(tmp_path: Path, attempt: str) -> None:
    """The program ends with the seal's own error."""
    ran = _run_sealed(tmp_path, ATTEMPTS[attempt])
    assert ran.returncode != 0
    assert "PermissionError: sealed: " in ran.stderr
    assert "secret" not in ran.stdout


def test_everything_else_works(tmp_path: Path) -> None:
    """The program is the main one, has its arguments, and reads files elsewhere."""
    program = "import sys; assert __name__ == '__main__'; print(sys.argv[1:], open('open.txt').read())"
    ran = _run_sealed(tmp_path, program, "verify", "--json")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "['verify', '--json'] open\n", "")
