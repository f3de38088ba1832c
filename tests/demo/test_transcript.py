"""The transcript: it tells what happened, checks what was claimed, and cuts secrets short."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from broker.demo.transcript import Page, Step, Transcript, shortened
from tests.fakes import FakeClock


def _holding(step: Step) -> None:
    """Somebody does a thing.

    It matters
    for a reason.
    """
    step.sent("GET /a\nmore")
    step.came("200")
    step.holds("It is so.", True)
    step.facts["n"] = 1


def _wrong(step: Step) -> None:
    """Somebody claims a thing."""
    step.holds("It is so.", False, "it is not: eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl")


def _crashing(step: Step) -> None:
    """Somebody stumbles."""
    raise ValueError("over a stone")


def _transcript(*, terminal: bool = False) -> tuple[Transcript, io.StringIO]:
    page = io.StringIO()
    console = Console(file=page, force_terminal=terminal, color_system="standard" if terminal else None, width=80)
    return Transcript(Page(console), FakeClock()), page


def test_an_act_is_told_in_the_words_of_its_docstring() -> None:
    """Heading, reason, what was sent, what came, what held."""
    transcript, page = _transcript()
    assert transcript.perform(_holding)
    assert page.getvalue().splitlines() == [
        "",
        " 1. Somebody does a thing",
        "    It matters for a reason.",
        "    > GET /a",
        "      more",
        "    < 200",
        "    ok It is so.",
    ]


def test_machines_get_the_same() -> None:
    """Number, name, claims and facts of every step."""
    transcript, _ = _transcript()
    transcript.perform(_holding)
    document = transcript.to_json()
    assert document["held"] is True
    (step,) = document["steps"]
    assert (step["number"], step["name"], step["claims"], step["facts"]) == (1, "-holding", ["It is so."], {"n": 1})


def test_nothing_performed_is_nothing_held() -> None:
    """An empty play proves nothing."""
    assert not _transcript()[0].held


def test_a_claim_that_is_not_so_fails_its_step() -> None:
    """The step keeps what was expected and what came, cut short where it is secret."""
    transcript, page = _transcript()
    assert transcript.perform(_holding)
    assert not transcript.perform(_wrong)
    assert not transcript.held
    transcript.tell_failure("last words eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl")
    told = page.getvalue()
    assert "FAILED: step 2, Somebody claims a thing" in told
    assert "expected: It is so." in told
    assert "last words eyJhbGciOiJF..." in told
    assert "c2lnbmF0dXJl" not in told + str(transcript.to_json())


def test_an_act_that_crashes_is_a_failure_like_others() -> None:
    """The kind of error and its text are told; nothing escapes."""
    transcript, _ = _transcript()
    assert not transcript.perform(_crashing)
    assert transcript.steps[0].failure is not None
    assert transcript.steps[0].failure["came"] == "ValueError: over a stone"


def test_ctrl_c_is_no_failure_of_an_act() -> None:
    """A person who stops the play stops it."""

    def stopped(step: Step) -> None:
        """Somebody has had enough."""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _transcript()[0].perform(stopped)


def test_a_terminal_gets_colours_and_signs() -> None:
    """And only a terminal."""
    transcript, page = _transcript(terminal=True)
    transcript.perform(_holding)
    assert "\x1b[" in page.getvalue()
    assert "✓ It is so." in page.getvalue()


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", "eyJhbGciOiJF..."),
        ("http://127.0.0.1:8420/login#" + "Ab-_" * 11, "http://127.0.0.1:8420/login#Ab-_..."),
        ("sk-stand-in-" + "Ab-_" * 6, "sk-stand-in-Ab-..."),
        ("Bearer sk-proj-0123456789abcdef0123", "Bearer sk-proj-0123456..."),
    ],
)
def test_secrets_are_cut_short(secret: str, shown: str) -> None:
    """Tokens, one-time links and provider's keys keep a beginning to recognise them by."""
    assert shortened(f"<{secret}>") == f"<{shown}>"


@pytest.mark.parametrize("text", ["job:acme/nightly-report", "record #14", "a" * 64, "skip-this-one", "eyJ"])
def test_what_is_no_secret_stays_whole(text: str) -> None:
    """Names, hashes and numbers are shown as they are."""
    assert shortened(text) == text
