"""The stage: the broker as a process of its own, the stand-ins on either side of it, and a folder for each person."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx2

from broker.clock import SystemClock
from broker.demo import commands, server
from broker.demo.platform import StandInPlatform
from broker.demo.provider import StandInProvider
from broker.demo.transcript import NotHeld, Step
from broker.entropy import system_entropy
from broker.formats.note import NoteVerifier

SECRET = "stand-in"  # noqa: S105  the name of a secret
KEY_VARIABLE = "STAND_IN_KEY"

_READY_TIMEOUT_S = 45.0
_STOP_TIMEOUT_S = 12.0
_POLL_S = 0.03
_GREETING, _LOG = "greeting.json", "log.txt"


class Stage:
    """Use it as a context manager: whatever was started is stopped when it is left, however that happens.

    Args:
        folder: where everything is kept, a folder inside for each person.
        port: where the broker listens; a free port unless given.
        provider: the stand-in on the far side; one that behaves unless given.

    Attributes:
        url: the broker's address, also its issuer identifier.
        log_key: the log's public key as the broker's terminal showed it, for the auditor to pin.
        link: the one-time sign-in link that it showed.
    """

    def __init__(self, folder: Path, *, port: int | None = None, provider: StandInProvider | None = None) -> None:
        self.clock, self.entropy = SystemClock(), system_entropy
        self.platform = StandInPlatform(clock=self.clock, entropy=self.entropy)
        self.provider = provider or StandInProvider(clock=self.clock, entropy=self.entropy, pause_s=0.02, hold=True)
        self.folder = folder
        self.url = ""
        self.log_key = ""
        self.link = ""
        self._port = port
        self._started = ExitStack()

    def __enter__(self) -> Self:
        """Starts nothing yet; that is the first act."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the broker, then the stand-ins."""
        self._started.close()

    def start(self, step: Step) -> None:
        """The broker starts, between a platform and a provider.

        It is the same `broker serve` that you will run, with a data folder of its own. The platform (who vouches for
        workloads) and the provider (who has the models) are stand-ins that speak the real protocols. The provider's
        key comes in an environment variable; broker.toml says which, and which single address may ever be sent it.
        """
        self._started.enter_context(server.in_thread(self.platform, self.provider))
        config = self._configure(self._port or server.free_port())
        process = self._serve(config)
        step.sent(f"broker serve --config {config.name}\n\n{config.read_text('utf-8')}")
        told = self._greeting(process)
        self.url, self.log_key, self.link = told["issuer"], told["log_key"], told["sign_in_link"]
        step.came(f"The broker answers at {self.url}\nThe log's key: {self.log_key}\nSign in: {self.link}")
        step.holds("The broker is ready, as a process of its own.", self._is_ready(), "it is not")
        log = NoteVerifier.parse(self.log_key).name
        step.holds(
            "It shows its log's public key at once, for auditors to pin.", log.startswith(urlsplit(self.url).netloc)
        )
        step.facts.update(broker=self.url, process=process.pid, log_key=self.log_key)

    def home(self, person: str) -> Path:
        """The folder where a person works and keeps what is theirs."""
        path = self.folder / person
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def http(
        self, auth: httpx2.Auth | None = None, on_request: Callable[[httpx2.Request], None] | None = None
    ) -> httpx2.Client:
        """A client of the broker, closed with the stage.

        Args:
            auth: who asks.
            on_request: is shown every request as it goes out.
        """
        client = httpx2.Client(
            base_url=self.url,
            auth=auth,
            timeout=15.0,
            trust_env=False,
            event_hooks={"request": [on_request] if on_request is not None else []},
        )
        return self._started.enter_context(client)

    def log_tail(self, lines: int = 20) -> str:
        """The end of what the broker printed."""
        return "\n".join(self._read(_LOG).splitlines()[-lines:])

    def _configure(self, port: int) -> Path:
        config = self.home("broker") / "broker.toml"
        beside = ", ".join(f'"{urlsplit(origin).netloc}"' for origin in (self.platform.origin, self.provider.origin))
        config.write_text(
            f"""\
[server]
port = {port}
[storage]
data_dir = '{self.home("broker") / "data"}'
[outgoing]
allow = [{beside}]  # the stand-ins; nothing else on this machine
[secrets.{SECRET}]
env = "{KEY_VARIABLE}"
origins = ["{self.provider.origin}"]
""",
            "utf-8",
        )
        return config

    def _serve(self, config: Path) -> subprocess.Popen[str]:
        out = self._started.enter_context((config.parent / _GREETING).open("w", encoding="utf-8"))
        log = self._started.enter_context((config.parent / _LOG).open("w", encoding="utf-8"))
        process = commands.serve(config, out=out, log=log, **{KEY_VARIABLE: self.provider.key})
        self._started.callback(_stop, process)
        return process

    def _greeting(self, process: subprocess.Popen[str]) -> dict[str, str]:
        """What the broker tells the terminal once it listens."""
        deadline = self.clock.monotonic() + _READY_TIMEOUT_S
        while not (text := self._read(_GREETING)).endswith("\n"):
            if process.poll() is not None:
                raise NotHeld("The broker answers.", f"it ended with exit code {process.returncode}")
            if self.clock.monotonic() > deadline:
                raise NotHeld(f"The broker answers within {_READY_TIMEOUT_S:.0f} s.", "nothing so far")
            time.sleep(_POLL_S)
        found: dict[str, str] = json.loads(text)
        if "issuer" not in found:
            raise NotHeld("The broker answers.", found.get("detail", text))
        return found

    def _is_ready(self) -> bool:
        return self.http().get("/readyz").status_code == 200

    def _read(self, name: str) -> str:
        path = self.folder / "broker" / name
        return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
