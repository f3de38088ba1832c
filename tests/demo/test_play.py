"""The play, as a person starts it: every step holds, a broken one is told, nothing secret shows, nothing is left."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from broker.changes import manifest
from broker.clock import SystemClock
from broker.demo import commands, next_steps
from broker.demo.play import a_folder, play
from broker.demo.provider import StandInProvider
from broker.demo.stage import Stage
from broker.demo.transcript import Page, Transcript
from broker.entropy import system_entropy
from broker.errors import ConfigurationError
from broker.policy import active
from broker.policy.shipped import PolicyFiles, shipped
from broker.settings import Settings, environment_for_child

STEPS = [
    "start",
    "sign-in",
    "trust-platform",
    "connect-provider",
    "add-enrolment-rule",
    "exchange-evidence",
    "stream-a-call",
    "call-in-the-other-format",
    "call-outside-ceiling",
    "explain-refusal",
    "use-stolen-token",
    "replay-request",
    "break-a-case",
    "widen-ceiling",
    "call-again",
    "find-decisions",
    "verify-offline",
    "notice-a-flipped-byte",
]
WHOLE_SECRET = re.compile(r"eyJ[\w-]+\.[\w-]+\.|login#[\w-]{10}|sk-stand-in-[\w-]{10}")


@dataclass(frozen=True)
class Played:
    """A `broker demo --json` that ended."""

    code: int
    document: Mapping[str, Any]
    printed: str
    folder: Path

    @property
    def facts(self) -> dict[str, Mapping[str, Any]]:
        """The facts of each step."""
        return {step["name"]: step["facts"] for step in self.document["steps"]}


def _demo(*arguments: str, folder: Path) -> Played:
    ran = subprocess.run(
        [commands.program(), "demo", "--json", *arguments],
        capture_output=True,
        check=False,
        text=True,
        env=environment_for_child(TMPDIR=str(folder)),
        timeout=120,
    )
    return Played(ran.returncode, json.loads(ran.stdout or "{}"), ran.stdout + ran.stderr, folder)


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The whole play, once."""
    return _demo(folder=tmp_path_factory.mktemp("demo"))


def test_every_step_holds(played: Played) -> None:
    """The play exits with 0, having gone through every step in order, and each checked something."""
    assert played.code == 0, played.printed
    steps = played.document["steps"]
    assert [step["name"] for step in steps] == STEPS
    assert [step["name"] for step in steps if not step["held"] or not step["claims"]] == []
    assert played.document["held"] is True


def test_the_two_decisions_are_two_records_under_two_sets(played: Played) -> None:
    """What the auditor verified are the refusal and the later permit, each by the policies of its time."""
    facts = played.facts
    refusal, permit = facts["find-decisions"]["records"].values()
    assert refusal < facts["widen-ceiling"]["record"] < permit
    assert facts["add-enrolment-rule"]["set"] != facts["widen-ceiling"]["set"]
    assert facts["verify-offline"]["log_key"] == facts["start"]["log_key"]


def test_the_play_tells_no_secret(played: Played) -> None:
    """No token, no one-time link and no provider's key is printed whole."""
    assert WHOLE_SECRET.findall(played.printed) == []


def test_the_play_leaves_nothing_behind(played: Played) -> None:
    """The broker is stopped and the folder removed."""
    assert not _is_running(played.facts["start"]["process"])
    assert list(played.folder.iterdir()) == []


def test_a_step_that_does_not_hold_ends_the_play(tmp_path: Path) -> None:
    """A broker that cannot listen: exit code 1, and the step says what was expected and what came."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        played = _demo("--port", port, folder=tmp_path)
    assert (played.code, played.document["held"]) == (1, False)
    (step,) = played.document["steps"]
    assert (step["name"], step["held"]) == ("start", False)
    assert step["failure"]["expected"] == "The broker answers."
    assert port in step["failure"]["came"]
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Failed:
    """A play whose provider answers with its own key, as it was printed off a terminal."""

    page: str
    transcript: Transcript
    key: str


@pytest.fixture(scope="session")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Failed:
    """A play that ends before its time."""
    provider = StandInProvider(clock=SystemClock(), entropy=system_entropy, behaviour="leak-key")
    page = io.StringIO()
    transcript = Transcript(Page(Console(file=page)), SystemClock())
    assert not play(Stage(tmp_path_factory.mktemp("failed"), provider=provider), transcript)
    return Failed(page.getvalue(), transcript, provider.key)


def test_a_failure_is_told(failed: Failed) -> None:
    """The page names the step, what was expected and what came, and shows the broker's log."""
    assert "FAILED: step 7, The agent calls a model" in failed.page
    assert "expected: The answer is whole" in failed.page
    assert f"came:     {failed.key[:15]}..." in failed.page
    assert "The end of the broker's log:" in failed.page
    assert [step.name for step in failed.transcript.steps] == STEPS[:7]


def test_a_failure_tells_no_secret(failed: Failed) -> None:
    """Not even a key that turned up where it has no business."""
    told = failed.page + json.dumps(failed.transcript.to_json())
    assert failed.key not in told
    assert WHOLE_SECRET.findall(told) == []


def test_a_failure_leaves_no_process(failed: Failed) -> None:
    """The broker is stopped when the play ends early as well."""
    assert not _is_running(failed.transcript.steps[0].facts["process"])


def test_off_a_terminal_the_page_is_plain(failed: Failed) -> None:
    """No colours, and nothing but ASCII."""
    assert failed.page.isascii()
    assert "\x1b" not in failed.page
    assert "ok The broker is ready" in failed.page


def test_a_folder_in_use_is_not_taken(tmp_path: Path) -> None:
    """`--keep` never writes between somebody's files."""
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigurationError, match="not empty"), a_folder(tmp_path):
        pass
    with a_folder(tmp_path / "new") as kept:
        (kept / "data").touch()
    assert (tmp_path / "new" / "data").exists()


def test_without_the_sdk_the_play_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing `openai` is told before anything is started."""
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'broker\[demo\]'"):
        play(Stage(tmp_path), Transcript(Page(Console(quiet=True)), SystemClock()))
    assert list(tmp_path.iterdir()) == []


def test_what_it_recommends_at_its_end_is_accepted() -> None:
    """The configuration and the manifest that a reader copies are valid, and so is the rule in it."""
    Settings.model_validate(tomllib.loads(next_steps.BROKER_TOML))
    wanted = manifest.parse(yaml.safe_load(next_steps.WORLD_YAML))
    assert (set(wanted.attesters), set(wanted.endpoints)) == ({"github"}, {"openai"})
    known = shipped()
    added = {name: text for name, text in wanted.policies.items() if text is not None}
    assert active.check(PolicyFiles(known.schema, {**known.files, **added}, known.cases)).cases_run
    compile(next_steps.AGENT_PY, "agent.py", "exec")


def _is_running(process: object) -> bool:
    assert isinstance(process, int)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
