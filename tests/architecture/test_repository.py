"""What is committed works on any machine: no place of this one, nothing unlocked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest

from tests.architecture.source import ROOT, Source, committed_files

_MACHINE_PATH = re.compile(r"(?<![\w.~*})/-])/(?:work|home|root|Users)/[A-Za-z0-9._]+")
_REGISTRY = re.compile(r"\b(?:pypi|pythonhosted|npmjs|crates|golang|debian)\.(?:org|com|io)\b", re.IGNORECASE)
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==\S+( ; .+)? \\$")
_HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def places(source: Source) -> Iterator[str]:
    """Absolute paths of somebody's machine, and names of package registries."""
    for number, line in enumerate(source.text.splitlines(), 1):
        for found in (*_MACHINE_PATH.findall(line), *_REGISTRY.findall(line)):
            yield f"line {number}: names {found}"


def unlocked(source: Source) -> Iterator[str]:
    """Lines that are neither a version, nor a hash, nor a comment; versions without a hash."""
    hashes = 1
    for number, line in enumerate(source.text.splitlines(), 1):
        if _LOCKED.match(line):
            if not hashes:
                yield f"line {number}: the package before it has no hash"
            hashes = 0
        elif _HASH.match(line):
            hashes += 1
        elif not line.lstrip().startswith("#") or "://" in line:
            yield f"line {number}: {line!r} is neither a version nor a hash"
    if not hashes:
        yield "the last package has no hash"


def versions(text: str) -> dict[str, str]:
    """The pinned version of each package in a locked list, by its normalised name (PEP 503)."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


def _lock(name: str) -> Source:
    return Source(f".ci/{name}.lock", (ROOT / ".ci" / f"{name}.lock").read_text(encoding="utf-8"))


def test_no_file_names_a_place_of_one_machine() -> None:
    """No absolute path and no package registry in anything that is committed."""
    found = []
    for path in committed_files():
        try:
            source = Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        found += [f"{source.path}: {text}" for text in places(source)]
    assert found == []


@pytest.mark.parametrize("name", ["runtime", "development"])
def test_a_locked_list_holds_versions_and_hashes_alone(name: str) -> None:
    """Every package has a version and at least one hash, and no line sends pip to an index."""
    assert list(unlocked(_lock(name))) == []


def test_the_development_list_holds_the_runtime_list() -> None:
    """What the tests run against is what the demo runs."""
    runtime, development = versions(_lock("runtime").text), versions(_lock("development").text)
    assert runtime.items() <= development.items()


def test_everything_declared_is_locked() -> None:
    """A dependency added to pyproject.toml without `make lock` is noticed here."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = [
        declared["build-system"]["requires"],
        declared["project"]["dependencies"],
        *declared["project"]["optional-dependencies"].values(),
        *declared["dependency-groups"].values(),
    ]
    names = {re.split(r"[^A-Za-z0-9._-]", wish)[0].lower() for each in lists for wish in each}
    assert sorted(names - versions(_lock("development").text).keys()) == []


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_both_commands(command: str) -> None:
    """Whoever lands on the front page can try the broker and check it."""
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


# The samples are spelled in pieces, so that this file passes its own check.
@pytest.mark.parametrize(
    "text",
    [
        "see /" + "work/main/notes.txt",
        '"/' + 'home/somebody/broker"',
        "path=/" + "root/.config",
        "https://" + "py" + "pi.org/simple",
        "files.python" + "hosted.org",
    ],
)
def test_a_place_is_found(text: str) -> None:
    """In prose, in quotes and after a sign."""
    assert len(list(places(Source("a.md", text)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/" + "home/page",
        "~/" + "work/broker",
        "ProtectHome=yes",
        "a home of its own",
        "$X/" + "work/a",
    ],
)
def test_what_only_looks_like_a_place_passes(text: str) -> None:
    """URLs, relative paths and words are left alone."""
    assert list(places(Source("a.md", text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "--index-url x",
        "six",
        "six==1.0",
        "six==1.0 \\",
        "six==1.0 \\\n    # via x",
        "six==1.0 \\\nseven==1.0 \\\n    --hash=sha256:" + "a" * 64,
        "# from https://somewhere",
    ],
)
def test_an_unlocked_line_is_found(text: str) -> None:
    """An option, a bare name, a version without a hash, and an address in a comment."""
    assert len(list(unlocked(Source(".ci/a.lock", text)))) == 1
