"""A broker that answers what no broker does: each command of the auditor says so in a sentence and shows none of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from broker.cli import answers
from broker.cli.answers import ApiFailed
from tests.cli.running import Person

_RECORD: dict[str, Any] = {
    "index": 1, "kind": "K", "agent": "a", "seq": 1, "at_ms": 1, "groups": {},
    "withheld": [], "erased": {}, "missing": [],
}  # fmt: skip
_QUERY: dict[str, Any] = {"name": "n", "shared": True, "query": {}, "changed_by": "a", "changed_at_ms": 1}
_KIND: dict[str, Any] = {
    "version": 1,
    "properties": {"what": {"properties": {"model": {"type": "string"}}, "required": []}},
}
_LINE: dict[str, Any] = {
    "index": 0, "at_ms": 1, "kind": "K", "agent": "a", "agent_tag": "t", "seq": 1, "outcome": "", "model": "",
    "request_id": "", "groups": {}, "withheld": [], "entry": "",
}  # fmt: skip

_NONSENSE: list[object] = [None, [], 5, "x", {}]
_NO_RECORDS: list[Any] = [None, [5], [{}], [_RECORD | {"index": "\x1b[2J"}]]
_NO_QUERIES: list[Any] = [
    5, [5], [{}], *([_QUERY | {"changed_at_ms": wrong}] for wrong in ("x", 10**15)), [_QUERY | {"query": 5}],
]  # fmt: skip
_NO_RECORD: list[dict[str, Any]] = [
    {"at_ms": 10**15}, {"at_ms": -1}, {"at_ms": "x"}, {"seq": True}, {"groups": []}, {"groups": {"what": 5}},
    {"withheld": 5}, {"withheld": [5]}, {"erased": []}, {"erased": {"what": "x"}}, {"missing": {}}, {"agent": None},
    {"kind": ["\x1b[31m"]},
]  # fmt: skip
_WRONG: dict[tuple[str, ...], list[Any]] = {
    ("search",): [
        *_NONSENSE,
        *({"records": each, "next": None, "search": 1} for each in _NO_RECORDS),
        {"records": [_RECORD], "next": "x", "search": 1},
        {"records": [_RECORD | {"groups": {"decision": []}}], "next": None, "search": 1},
    ],
    ("show", "1"): [
        *_NONSENSE,
        *(_RECORD | wrong for wrong in _NO_RECORD),
    ],
    ("saved",): [
        *_NONSENSE,
        *({"queries": each} for each in _NO_QUERIES),
    ],
    ("schema",): [*_NONSENSE, {"kinds": []}, {"kinds": {"K": 5}}],
    ("schema", "TrailRead"): [
        *_NONSENSE,
        {"kinds": {}},
        {"kinds": {"TrailRead": _KIND}},
        {"kinds": {"TrailRead": _KIND | {"required": [], "properties": {"what": {}}}}},
        {"kinds": {"TrailRead": _KIND | {"required": [], "properties": {"what": {"properties": {"a": 5}}}}}},
    ],
    ("erase", "--agent", "x", "--group", "who", "--before", "3d", "--why", "x", "--yes"): [
        *_NONSENSE, {"erased": "x", "inputs": 0, "next": None, "record": None},
        {"erased": 0, "inputs": 0, "next": "x", "record": None},
    ],
}  # fmt: skip


def _answering(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Whatever a command asks the API for, this comes back; tokens are the broker's own."""
    send = httpx2.HTTPTransport.handle_request

    def answer(self: httpx2.HTTPTransport, request: httpx2.Request) -> httpx2.Response:
        if "/api/v1/audit" in request.url.path:
            return httpx2.Response(200, content=data)
        return send(self, request)

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", answer)


@pytest.mark.parametrize("command", _WRONG, ids=" ".join)
def test_an_answer_of_another_shape_is_refused(
    admin: Person, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """In text and for machines: exit code 1, one sentence, nothing that a terminal would act on."""
    for wrong in _WRONG[command]:
        with monkeypatch.context() as patch:
            _answering(patch, json.dumps(wrong).encode())
            said = admin.refused("audit", *command)
            assert "in another shape than this command reads" in said or "says nothing of TrailRead" in said, wrong
            assert "\x1b" not in said
            if command != ("schema", "TrailRead"):
                told = admin("audit", *command, "--json")
                assert json.loads(told.stdout.partition("[\n")[0] or told.stdout)["error"] == "api_failed", wrong


@pytest.mark.parametrize("format", ["jsonl", "ocsf", "parquet"])
@pytest.mark.parametrize(
    "lines",
    [
        b"[]", b"5", b"{}", b"\xff", b'{"export": 5}', b'{"export": {}}', b'{"export": {"cursor": 5}}',
        *(json.dumps(_LINE | wrong).encode() for wrong in (
            {"index": "a"}, {"seq": 10**30}, {"agent_tag": 5}, {"groups": 5}, {"groups": {"what": 5}}, {"at_ms": "a"},
            {"at_ms": 10**15}, {"entry": None}, {"withheld": "x"},
        )),
    ],
)  # fmt: skip
def test_a_line_of_another_shape_ends_an_export(
    admin: Person, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, format: str, lines: bytes
) -> None:
    """Whatever it is exported to; no file is left."""
    _answering(monkeypatch, lines + b'\n{"export": {"cursor": "1:1:' + b"0" * 64 + b'", "more": false}}\n')
    said = admin.refused("audit", "export", "--format", format, "-o", str(tmp_path / "out"))
    assert "in another shape than this command reads" in said or "something else than JSON" in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_json_is_refused() -> None:
    """Also what Python alone takes for JSON, and what cannot be written again."""
    for data in (b"", b"<html>", b"NaN", b'{"a": "\\ud800"}', b"\xff", b"[" * 100_000):
        with pytest.raises(ApiFailed, match="something else than JSON"):
            answers.read(data, answers.Anything, "https://broker")


def test_an_answer_is_given_as_it_is() -> None:
    """With members that this version does not know, for those are for who asked with --json."""
    more: Any = {**_RECORD, "more": [1]}
    assert answers.read(json.dumps(more).encode(), answers.Record, "https://broker") == more
