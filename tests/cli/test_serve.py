"""`broker serve` as a process: its bounds towards strangers, and its end."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.build import free_port
from tests.cli.running import PROGRAM, BrokerProcess, environment


def _connection(broker: BrokerProcess) -> socket.socket:
    parts = urlsplit(broker.issuer)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=30)


def test_an_endless_head_is_cut(broker: BrokerProcess) -> None:
    """The served protocol is the bounded one: a stranger's head of more than 64 KiB ends the connection."""
    with _connection(broker) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        answer = b""
        try:
            for n in range(200):
                connection.sendall(b"X-%d: %s\r\n" % (n, b"y" * 1000))
            answer = connection.recv(100)
        except OSError:
            pass  # cut while it was still sending
        assert answer[:12] in (b"", b"HTTP/1.1 431")


def test_endless_pipelining_is_cut(broker: BrokerProcess) -> None:
    """Requests whose answers nobody reads do not pile up."""
    with _connection(broker) as connection:
        try:
            for _ in range(200):
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        except OSError:
            return
        raise AssertionError("200,000 requests were taken on one connection whose answers were never read")


def test_being_told_to_stop_is_no_failure(tmp_path: Path) -> None:
    """SIGTERM ends the broker in good order with exit code 0."""
    command = [PROGRAM, "serve", "--json", "--port", str(free_port()), "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(
        command, env=environment(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
