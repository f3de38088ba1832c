"""The transcript: performs acts one after another, prints what happens while it happens, and keeps it for machines.

An act is a function whose docstring is what the reader is told: its first line the heading, the rest why it matters.
What an act claims is checked there and then; the first claim that does not hold ends the play.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from broker.clock import Clock

Act = Callable[["Step"], None]

_WIDTH = 100
_INDENT = "    "
_SECRETS = re.compile(r"(eyJ[\w-]{9})[\w.-]{16,}|(#[\w-]{4})[\w-]{16,}|(sk-[\w-]{12})[\w-]{8,}")
"""Signed tokens, the codes of one-time links, and provider's keys, each with the beginning that may be shown."""


def shortened(text: str) -> str:
    """The text with every secret in it cut short."""
    return _SECRETS.sub(lambda found: next(filter(None, found.groups())) + "...", text)


class NotHeld(Exception):
    """Something that an act claims is not so."""

    def __init__(self, claim: str, came: object) -> None:
        super().__init__(claim)
        self.claim = claim
        self.came = came


class Page:
    """Where the transcript is printed: colours and signs on a terminal, plain ASCII of our own elsewhere.

    Args:
        console: a quiet one prints nothing.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        pretty = console.is_terminal and "utf" in console.encoding.lower()
        self._signs = (
            {"sent": "→ ", "came": "← ", "held": "✓ "} if pretty else {"sent": "> ", "came": "< ", "held": "ok "}
        )
        self._width = max(60, min(console.width, _WIDTH)) if console.is_terminal else _WIDTH

    def heading(self, text: str) -> None:
        """A heading after an empty line."""
        self._print("")
        self._print(text, "bold")

    def prose(self, text: str, *, indent: str = _INDENT) -> None:
        """Paragraphs, broken into lines anew."""
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            self._print(textwrap.fill(words, self._width, initial_indent=indent, subsequent_indent=indent), "dim")

    def lines(self, kind: str, text: str, style: str = "") -> None:
        """Lines as they are, the first with the sign of its kind; one that is too long goes on below itself."""
        sign = _INDENT + self._signs.get(kind, "")
        for line in text.rstrip().split("\n"):
            room = self._width - len(sign)
            for part in textwrap.wrap(line, room, subsequent_indent=_leading(line), break_on_hyphens=False) or [""]:
                self._print((sign + part).rstrip(), style)
                sign = " " * len(sign)

    def verbatim(self, text: str, *, indent: str = _INDENT) -> None:
        """Lines that a person may copy."""
        for line in text.rstrip().split("\n"):
            self._print(indent + line if line else "")

    def pieces(self, pieces: Iterable[str]) -> None:
        """One line that grows as its pieces arrive."""
        self._console.print(Text(_INDENT + self._signs["came"]), end="")
        for piece in pieces:
            self._console.print(Text(shortened(piece) + "|", "cyan"), end="")
            self._console.file.flush()
        self._print("")

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(shortened(text), style), soft_wrap=True)


class Step:
    """One act on its way. What is said here is printed at once and kept.

    Args:
        number: its place in the play.
        act: what is performed.
        page: where it is printed.

    Attributes:
        claims: what was checked and held, in order.
        facts: what machines may want to know of it.
        failure: what did not hold and what came instead, if anything.
    """

    def __init__(self, number: int, act: Act, page: Page) -> None:
        title, _, why = (inspect.getdoc(act) or "").partition("\n\n")
        self.number = number
        self.name = getattr(act, "__name__", "").replace("_", "-")
        self.title = title.rstrip(".")
        self.claims: list[str] = []
        self.facts: dict[str, object] = {}
        self.failure: Mapping[str, str] | None = None
        self.took_s = 0.0
        self._page = page
        page.heading(f"{number:>2}. {self.title}")
        page.prose(why)

    def sent(self, text: str) -> None:
        """What somebody sends."""
        self._page.lines("sent", text)

    def came(self, text: str) -> None:
        """What comes back."""
        self._page.lines("came", text, "cyan")

    def pieces(self, pieces: Iterable[str]) -> None:
        """What comes back bit by bit."""
        self._page.pieces(pieces)

    def holds(self, claim: str, held: bool, came: object = "") -> None:
        """Checks a claim.

        Args:
            claim: a sentence that says what is expected.
            held: whether it is so.
            came: what is so instead, for whoever must mend it.

        Raises:
            NotHeld: it is not; the play ends.
        """
        if not held:
            raise NotHeld(claim, came)
        self.claims.append(claim)
        self._page.lines("held", claim, "green")

    def to_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "number": self.number,
            "name": self.name,
            "title": self.title,
            "held": self.failure is None,
            "claims": self.claims,
            "facts": self.facts,
            "failure": self.failure,
            "took_s": round(self.took_s, 3),
        }


class Transcript:
    """Performs acts, and remembers how each went.

    Args:
        page: where they are printed.
        clock: how long they took.
    """

    def __init__(self, page: Page, clock: Clock) -> None:
        self.page = page
        self.steps: list[Step] = []
        self._clock = clock

    @property
    def held(self) -> bool:
        """Whether everything so far is as it was claimed."""
        return bool(self.steps) and all(step.failure is None for step in self.steps)

    def perform(self, act: Act) -> bool:
        """Performs one act; False when it did not hold, and the play is over."""
        step = Step(len(self.steps) + 1, act, self.page)
        self.steps.append(step)
        began = self._clock.monotonic()
        try:
            act(step)
        except NotHeld as error:
            step.failure = {"expected": shortened(error.claim), "came": shortened(str(error.came))}
        except Exception as error:  # noqa: BLE001  whatever goes wrong in an act is the act's failure, told like the others
            came = shortened(f"{type(error).__name__}: {error}")
            step.failure = {"expected": "The act goes through to its end.", "came": came}
        step.took_s = self._clock.monotonic() - began
        return step.failure is None

    def tell_failure(self, log: str) -> None:
        """Says which step failed and how.

        Args:
            log: the end of the broker's log.
        """
        failed = self.steps[-1]
        assert failed.failure is not None
        self.page.heading(f"FAILED: step {failed.number}, {failed.title} ({failed.name})")
        self.page.lines("", f"expected: {failed.failure['expected']}", "red")
        self.page.lines("", f"came:     {failed.failure['came']}", "red")
        self.page.heading("The end of the broker's log:")
        self.page.verbatim(log or "(nothing)")

    def to_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        steps = [step.to_json() for step in self.steps]
        return {"held": self.held, "took_s": round(sum(step.took_s for step in self.steps), 3), "steps": steps}


def _leading(line: str) -> str:
    return line[: len(line) - len(line.lstrip())] + "  "
