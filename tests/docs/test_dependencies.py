"""Every runtime dependency has a decision record that names its licence as the package itself does."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution

import pytest

from tests.docs.document import ROOT, Document

_HEAD = "| package | licence | seen | kept by |"


def wanted(project: str) -> set[str]:
    """The names of what pyproject.toml wants at runtime: everything but the extra `dev`."""
    declared = tomllib.loads(project)["project"]
    extras = declared["optional-dependencies"]
    lists = [declared["dependencies"], *(extras[name] for name in extras if name != "dev")]
    return {re.split(r"[^A-Za-z0-9._-]", wish)[0].lower() for each in lists for wish in each}


def recorded(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each package that records are about, with its licence."""
    for text in texts:
        if _HEAD in text:
            yield from ((row[0], row[1]) for row in Document(text[text.index(_HEAD) :]).table())


def _records() -> list[tuple[str, str]]:
    return list(recorded(path.read_text("utf-8") for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))))


def test_every_runtime_dependency_has_one_record() -> None:
    """Nothing comes in without a word on what it is for, and how we would leave it; nothing that left stays."""
    names = [name for name, _ in _records()]
    assert sorted(names) == sorted(wanted((ROOT / "pyproject.toml").read_text("utf-8")))


@pytest.mark.parametrize(("name", "licence"), _records())
def test_a_record_names_the_licence(name: str, licence: str) -> None:
    """As the installed package says it, or as its licence file begins: a change of licence is noticed here."""
    package = distribution(name)
    said = package.metadata.json.get("license_expression") or package.metadata.json.get("license")
    if said is None:
        (file,) = [path for path in package.files or () if path.name == "LICENSE"]
        assert file.read_text("utf-8").split()[:4] == ["Apache", "License", "Version", "2.0,"]
        said = "Apache-2.0"
    assert licence == said


def test_what_is_missing_is_seen() -> None:
    """Extras count, the tools of the project do not; a table of something else is no record."""
    project = '[project]\ndependencies = ["A>=1"]\n[project.optional-dependencies]\nx = ["b-c; os == 1"]\ndev = ["d"]\n'
    assert wanted(project) == {"a", "b-c"}
    text = f"# 1\n| a | b |\n| --- | --- |\n| no | no |\n\n{_HEAD}\n| --- | --- | --- | --- |\n| a | MIT | 1 | x |\n"
    assert list(recorded([text, "# 2\n"])) == [("a", "MIT")]
