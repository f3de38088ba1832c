"""A machine on which a reader follows operating.md: its folders, its service manager, and a shell."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from broker.clock import SystemClock
from tests.build import es256, free_port
from tests.cli.running import PROGRAM, environment
from tests.docs.document import Document, is_shown

NAME = "broker.example.com:8443"


class Machine:
    """Runs what operating.md says; only paths and the broker's name are exchanged for those of here.

    Args:
        folder: stands for `/`.
        operating: the document, for the configuration and the command that the service manager runs.

    Attributes:
        home: the folder in which commands run; the sign-in of whoever runs them is in it.
        link: the sign-in link that person was sent; without one it is the first that the service printed.
    """

    def __init__(self, folder: Path, operating: Document) -> None:
        self.folder = folder
        self.home = folder
        self.link = ""
        self._port = free_port()
        self._operating = operating
        self._service: subprocess.Popen[str] | None = None
        self.person("at-work")
        for path in ("etc/broker", "var/lib/broker", "var/backups/broker"):
            (folder / path).mkdir(mode=0o700, parents=True)
        (configuration,) = operating.section("Configure").blocks("toml")
        etc = folder / "etc/broker"
        (etc / "broker.toml").write_text(self.here(configuration.text))
        (etc / "openai-key").write_text("not a key\n")
        _certify(etc)
        for file in etc.iterdir():
            file.chmod(0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def person(self, name: str) -> None:
        """Whoever runs the commands from now on, with a home of their own."""
        self.home = self.folder / "home" / name
        self.home.mkdir(parents=True, exist_ok=True)

    def here(self, text: str) -> str:
        """What a document says, with the paths and the name of this machine."""
        for written, found in (
            ("/opt/broker/bin/broker", PROGRAM),
            (NAME, f"localhost:{self._port}"),
            ('"0.0.0.0"', '"127.0.0.1"'),
            ("port = 8443", f"port = {self._port}"),
        ):
            text = text.replace(written, found)
        return re.sub(r"(?<![\w/])(?=/(?:etc|var)/)", str(self.folder), text)

    def run(self, line: str) -> str:
        """Runs one line of a document, which must succeed; gives what it printed, both streams."""
        if line.startswith("systemctl "):
            self._systemctl(line)
            return ""
        line = re.sub(r"'https://\S+#…'", lambda _: f"'{self.link or self._first_link()}'", line)
        done = subprocess.run(
            ["sh", "-ec", self.here(line)],
            cwd=self.home,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}"
        return done.stdout

    def follow(self, document: Document) -> str:
        """Runs every command of a document; what it shows of the answers must be in them. Gives the last answers."""
        printed = ""
        for block in document.blocks("sh", "text"):
            if block.language == "sh":
                printed = "".join(self.run(line) for line in block.lines)
            else:
                assert is_shown(self.here(block.text), printed), f"{block.text}\n---\n{printed}"
        return printed

    def journal(self) -> str:
        """What the service has said."""
        return (self.folder / "journal").read_text("utf-8")

    def _environment(self) -> dict[str, str]:
        return {
            **environment(self.home / "signed-in"),
            "PATH": f"{Path(PROGRAM).parent}:{os.defpath}",
            "SSL_CERT_FILE": str(self.folder / "etc/broker/cert.pem"),
        }

    def _systemctl(self, line: str) -> None:
        if line in ("systemctl enable --now broker", "systemctl start broker"):
            self._start()
        else:
            assert line in ("systemctl disable --now broker", "systemctl stop broker"), line
            self._stop()

    def _start(self) -> None:
        (unit,) = self._operating.section("Start").blocks("ini")
        (command,) = re.findall(r"^ExecStart=(.+)$", unit.text, re.MULTILINE)
        with (self.folder / "journal").open("w") as journal:
            self._service = subprocess.Popen(
                self.here(command).split(), cwd=self.folder, env=self._environment(), stderr=journal, text=True
            )
        _until(lambda: "for auditors to pin" in self.journal() or self._ended())
        assert not self._ended(), self.journal()

    def _ended(self) -> bool:
        return self._service is None or self._service.poll() is not None

    def _stop(self) -> None:
        if self._service is not None:
            self._service.terminate()
            assert self._service.wait(timeout=30) == 0, self.journal()
            self._service = None

    def _first_link(self) -> str:
        _until(lambda: "login#" in self.journal())
        (link,) = re.findall(r"https://\S+/login#[\w-]+", self.journal())
        return str(link)


def _until(condition: Callable[[], bool]) -> None:
    """Waits, by looking often, for what another process does."""
    for _ in range(3_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def _certify(folder: Path) -> None:
    """A certificate for this machine that is its own authority."""
    key, name = es256(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.fromtimestamp(SystemClock().now(), UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
