"""Size, names and docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from tests.architecture.source import Source, complaints

LONGEST = 400
EMPTY_NAMES = {
    "common",
    "helper",
    "helpers",
    "managers",
    "misc",
    "models",
    "schemas",
    "services",
    "util",
    "utils",
}
EMPTY_ENDINGS = ("Manager", "Service", "Helper", "Util", "Utils", "Handler", "Base", "Data", "Info")

Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def too_long(source: Source) -> Iterator[str]:
    """A file nobody reads in one go."""
    lines = source.text.count("\n")
    if lines > LONGEST:
        yield f"{lines} lines; {LONGEST} at most"


def empty_names(source: Source) -> Iterator[str]:
    """Folders and files named for a kind of code instead of a thing of the domain."""
    for part in PurePosixPath(source.path).with_suffix("").parts:
        if part in EMPTY_NAMES:
            yield f"{part!r} names no thing; call it what it is about"


def empty_class_names(source: Source) -> Iterator[str]:
    """Classes whose last word says nothing."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(EMPTY_ENDINGS):
            yield f"class {node.name}: its last word says nothing"


def undocumented(source: Source) -> Iterator[str]:
    """Public modules, classes, functions and methods that do not say what they are in one sentence."""
    if source.text.strip() and not any(part.startswith("_") for part in _stems(source)):
        yield from _summary(source.tree, "the module")
    yield from _undocumented_in(source.tree.body)


def _stems(source: Source) -> list[str]:
    return [part for part in source.module.split(".") if part != "__main__"]


def _undocumented_in(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _undocumented_in([*node.body, *node.orelse])
        if not isinstance(node, Named) or node.name.startswith("_") or _says_it_elsewhere(node):
            continue
        yield from _summary(node, node.name)
        if isinstance(node, ast.ClassDef):
            yield from _undocumented_in(node.body)


def _says_it_elsewhere(node: Named) -> bool:
    """An overload, or the setter of a property that has its own docstring."""
    marks = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(marks & {"overload", "setter", "deleter"})


def _summary(node: ast.Module | Named, name: str) -> Iterator[str]:
    first = (ast.get_docstring(node) or "").partition("\n\n")[0].rstrip()
    if not first:
        yield f"{name} has no docstring"
    elif first[-1] not in ".?!:":
        yield f"{name}: the first sentence of its docstring has no end"


def untold_tests(source: Source) -> Iterator[str]:
    """Tests that do not state what they guarantee."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield from _summary(node, node.name)


def test_no_file_is_too_long() -> None:
    """A file of the package has 400 lines at most."""
    assert complaints(too_long, "broker") == []


def test_files_and_folders_are_named_for_what_they_hold() -> None:
    """No utils, helpers, models, services, schemas or managers."""
    assert complaints(empty_names, "broker", "tests") == []


def test_classes_are_named_for_what_they_are() -> None:
    """No class ends in Manager, Service, Helper, Util, Handler, Base, Data or Info."""
    assert complaints(empty_class_names, "broker") == []


def test_everything_public_is_documented() -> None:
    """Every public module, class, function and method of the package says in a sentence what it is."""
    assert complaints(undocumented, "broker") == []


def test_every_test_states_its_guarantee() -> None:
    """Every test has a docstring."""
    assert complaints(untold_tests, "tests") == []


def test_a_file_of_401_lines_is_too_long() -> None:
    """The limit is 400: that many pass, one more does not."""
    assert list(too_long(Source("broker/a.py", "\n" * 400))) == []
    assert list(too_long(Source("broker/a.py", "\n" * 401))) == ["401 lines; 400 at most"]


@pytest.mark.parametrize("path", ["broker/utils.py", "broker/gateway/helpers/text.py", "broker/models/__init__.py"])
def test_an_empty_name_is_found(path: str) -> None:
    """The check fails on a file and on a folder."""
    assert len(list(empty_names(Source(path, "")))) == 1


def test_an_empty_class_name_is_found() -> None:
    """Also on a private class; a longer word that ends alike is fine."""
    text = "class KeyManager: ...\nclass _CallHandler: ...\nclass Database: ..."
    assert len(list(empty_class_names(Source("broker/a.py", text)))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "X = 1",
        '"""No end"""',
        '"""M."""\ndef f(): ...',
        '"""M."""\nasync def f(): ...',
        '"""M."""\nclass C: ...',
        '"""M."""\nclass C:\n  """C."""\n  def f(self): ...',
        '"""M."""\n@router.get("/")\nasync def shown(): ...',
        '"""M."""\nif True:\n  def f(): ...',
    ],
)
def test_a_missing_docstring_is_found(text: str) -> None:
    """One complaint for each public thing without a sentence."""
    assert len(list(undocumented(Source("broker/a.py", text)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"""M."""\ndef _f(): ...\nclass _C:\n  def f(self): ...',
        '"""M."""\nclass C:\n  """C."""\n  def __len__(self): ...\n  def _f(self): ...',
        '"""M."""\ndef f():\n  """F."""\n  def inner(): ...',
        '"""M."""\n@overload\ndef f(): ...',
    ],
)
def test_what_is_private_needs_no_docstring(text: str) -> None:
    """Private names, dunder methods, inner functions and overloads are left alone."""
    assert list(undocumented(Source("broker/a.py", text))) == []


def test_an_untold_test_is_found() -> None:
    """In a module and in a class."""
    text = "def test_a(): ...\nclass TestB:\n  async def test_b(self): ...\ndef build(): ..."
    assert len(list(untold_tests(Source("tests/test_a.py", text)))) == 2
