"""Exceptions from a rule carry their reason beside them."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

import pytest

from tests.architecture.source import Source, complaints

_WAIVER = re.compile(
    r"#\s*(type:\s*ignore(?:\[[^\]]*\])?|noqa(?::\s*[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*)?)", re.IGNORECASE
)
_SKIPS = {"skip", "skipif", "xfail", "importorskip"}


def unexplained_waivers(source: Source) -> Iterator[str]:
    """`type: ignore` and `noqa` without words after them that say why."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type != tokenize.COMMENT:
            continue
        for waiver in _WAIVER.finditer(token.string):
            rest = _WAIVER.sub("", token.string[waiver.end() :])
            if len(re.findall(r"[A-Za-z]{2,}", rest)) < 2:
                yield f"line {token.start[0]}: {waiver.group(1)} without a reason after it"


def unexplained_skips(source: Source) -> Iterator[str]:
    """Tests that are left out, or expected to fail, without a reason."""
    called = {node.func for node in ast.walk(source.tree) if isinstance(node, ast.Call)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _skips(node.func):
            first_is_reason = node.func.attr in {"skip", "xfail"}
            reasons = [word.value for word in node.keywords if word.arg == "reason"]
            reasons += node.args[:1] if first_is_reason else []
            if not any(_has_words(reason) for reason in reasons):
                yield f"line {node.lineno}: {node.func.attr} without a reason"
        elif isinstance(node, ast.Attribute) and node not in called and _skips(node):
            yield f"line {node.lineno}: {node.attr} without a reason"


def _skips(node: ast.Attribute) -> bool:
    return node.attr in _SKIPS and ast.unparse(node.value) in {"pytest", "pytest.mark"}


def _has_words(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(node.value.strip())
    )


def test_every_waiver_says_why() -> None:
    """No `type: ignore` and no `noqa` stands without its reason."""
    assert complaints(unexplained_waivers, "broker", "tests") == []


def test_every_skip_says_why() -> None:
    """Nothing is skipped silently."""
    assert complaints(unexplained_skips, "tests") == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1  # type: ignore",
        "x = 1  # type: ignore[assignment]",
        "x = 1  # type: ignore[assignment]  # ok",
        "x = 1  # noqa",
        "x = 1  # noqa: S603",
        "x = 1  # noqa: S603, S607",
        "x = 1  # type: ignore[arg-type]  # noqa: S603 the program is our own",
    ],
)
def test_a_waiver_without_a_reason_is_found(text: str) -> None:
    """Codes are no reason, and neither is one word; a reason belongs to the waiver it follows."""
    found = list(unexplained_waivers(Source("broker/a.py", text)))
    assert len(found) == (0 if "our own" in text else 1)


@pytest.mark.parametrize(
    "text",
    [
        "x = 1  # type: ignore[assignment]  # the stub lacks this overload",
        "x = 1  # noqa: S603 the program is our own",
        "x = 1  # noqa: S603, S607 - the program is our own",
        "x = 'a  # noqa'",
    ],
)
def test_a_waiver_with_a_reason_passes(text: str) -> None:
    """Words after the codes are enough; text inside a string is no waiver."""
    assert list(unexplained_waivers(Source("broker/a.py", text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "pytest.skip()",
        "pytest.skip('')",
        "@pytest.mark.skip\ndef test_a(): ...",
        "@pytest.mark.skipif(True)\ndef test_a(): ...",
        "@pytest.mark.xfail(strict=True)\ndef test_a(): ...",
        "pytest.importorskip('httpx')",
    ],
)
def test_a_silent_skip_is_found(text: str) -> None:
    """As a call, as a mark, and as a mark without parentheses."""
    assert len(list(unexplained_skips(Source("tests/test_a.py", text)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "pytest.skip('needs vectors')",
        "@pytest.mark.skipif(True, reason='needs Linux')\ndef test_a(): ...",
        "pytest.importorskip('httpx', reason=f'needs {name}')",
        "numbers.skip()",
    ],
)
def test_an_explained_skip_passes(text: str) -> None:
    """A reason, given as pytest takes it."""
    assert list(unexplained_skips(Source("tests/test_a.py", text))) == []
