"""A document as a reader follows it: its sections and their code blocks, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block without its indentation."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its lines."""
        return self.text.splitlines()


@dataclass(frozen=True)
class Document:
    """A Markdown text."""

    text: str

    @classmethod
    def read(cls, path: str) -> Document:
        """A document of this checkout."""
        return cls((ROOT / path).read_text("utf-8"))

    def section(self, title: str) -> Document:
        """What stands below the heading `title`, up to the next one that is not below it."""
        headings = [(match.start(), len(match[1]), match[2]) for match in _HEADING.finditer(_without_code(self.text))]
        (place,) = [n for n, (_, _, found) in enumerate(headings) if found == title]
        start, level, _ = headings[place]
        end = next((at for at, depth, _ in headings[place + 1 :] if depth <= level), len(self.text))
        return Document(self.text[start:end])

    def blocks(self, *languages: str) -> list[Block]:
        """The code blocks of these languages, or all."""
        found = (
            Block(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))
            for indent, language, text in _BLOCK.findall(self.text)
        )
        return [block for block in found if not languages or block.language in languages]

    def table(self) -> list[list[str]]:
        """The rows of the first table, without its head."""
        rows = [line.strip("| ").split(" | ") for line in self.text.splitlines() if line.startswith("|")]
        return rows[2:]

    def anchors(self) -> set[str]:
        """What a link can name after `#`: each heading in small letters, without signs, with hyphens."""
        titles = (match[2] for match in _HEADING.finditer(_without_code(self.text)))
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

    def links(self) -> list[str]:
        """The targets of its links."""
        return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", _without_code(self.text))


def is_shown(expected: str, output: str) -> bool:
    """Whether every line of what a document shows stands in what was printed, in order; numbers and … are any."""
    place = 0
    for line in expected.splitlines():
        pattern = re.sub(r"\d+", r"\\d+", re.escape(line).replace("…", ".*"))
        found = re.compile(rf"^{pattern}[ ]*$", re.MULTILINE).search(output, place)
        if found is None:
            return False
        place = found.end()
    return True


def _without_code(text: str) -> str:
    """The text with its code blocks blanked out, every character in its place."""
    return _BLOCK.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
