"""The documents name what exists: files, tests, headings; and each is listed in the README."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.docs.document import ROOT, Document

DOCUMENTS = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]

_NAME = re.compile(r"`([\w./-]+)`")
_FOLDERS = ("tests/", "broker/", "docs/", "policies/")
_TEST = re.compile(r"`(test_\w+)`")


def dead_links(path: str, document: Document) -> Iterator[str]:
    """Links to files that are not there, or to headings that the file has not."""
    for link in document.links():
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (ROOT / path).parent / target if target else ROOT / path
        if not file.exists():
            yield f"{path}: {link} leads nowhere"
        elif anchor and anchor not in Document(file.read_text("utf-8")).anchors():
            yield f"{path}: {link}: {file.name} has no such heading"


def unknown_names(path: str, text: str, tests: str) -> Iterator[str]:
    """Files of the checkout, and tests, that are named and are not there."""
    for name in _NAME.findall(text):
        is_one = name.endswith(".py") or name.startswith(_FOLDERS)
        if is_one and not (ROOT / name).exists() and not (ROOT / "broker" / name).exists():
            yield f"{path}: there is no {name}"
    for name in _TEST.findall(text):
        if f"def {name}(" not in tests:
            yield f"{path}: there is no test {name}"


def _all_tests() -> str:
    return "".join(file.read_text("utf-8") for file in (ROOT / "tests").rglob("test_*.py"))


def test_every_link_leads_somewhere() -> None:
    """To a file, and to a heading in it."""
    assert [text for path in DOCUMENTS for text in dead_links(path, Document.read(path))] == []


def test_every_file_and_test_that_is_named_is_there() -> None:
    """Whoever looks up where something is done, or shown, finds it."""
    tests = _all_tests()
    assert [text for path in DOCUMENTS for text in unknown_names(path, Document.read(path).text, tests)] == []


def test_the_readme_leads_to_every_document() -> None:
    """Nobody has to list the folder; decisions are listed in their own."""
    links = set(Document.read("README.md").links())
    assert [path for path in DOCUMENTS[1:] if "decisions/" not in path and path not in links] == []


def test_every_decision_is_listed() -> None:
    """By its number, in order, each number once."""
    files = [path.name for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))]
    assert Document.read("docs/decisions/README.md").links() == files
    numbers = [name.partition("-")[0] for name in files]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    "text", ["[a](nothing.md)", "[a](README.md#nowhere)", "`tests/nothing.py`", "`nothing.py`", "`test_nothing`"]
)
def test_what_leads_nowhere_is_found(text: str) -> None:
    """The checks above are not blind."""
    found = [*dead_links("README.md", Document(text)), *unknown_names("README.md", text, "def test_something(")]
    assert len(found) == 1


def test_what_is_there_is_not_complained_of() -> None:
    """A link out of the checkout is left alone."""
    text = "[a](https://example.com) [b](docs/architecture.md#state) [c](#honest-limits) `audit/log.py` `docs/` `a/b`"
    assert [*dead_links("README.md", Document(text)), *unknown_names("README.md", text, "")] == []
