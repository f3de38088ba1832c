"""The page of an evidence package that a person reads: what is in it, in plain HTML, without a server or scripts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import orjson

from broker.audit.inputs import KEEPING
from broker.audit.stored_record import at_ms

_ROWS = 500
"""Records shown one by one, and agents counted one by one."""

_DIGEST = re.compile(r"[0-9a-f]{64}")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evidence package of {log}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #111;
  background: #fff; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
caption {{ text-align: left; font-weight: bold; padding: .3rem 0; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #767676;
  overflow-wrap: anywhere; }}
code, pre {{ font-family: ui-monospace, monospace; }}
pre {{ background: #f2f2f2; padding: .8rem; overflow-x: auto; }}
</style>
</head>
<body>
<main>
<h1>Evidence package of {log}</h1>
<p>This page is what the broker says. Nothing on it is proved by being written here. Verify the package first, with the
log's key from somewhere else than this package, and with a copy of <code>verify.py</code> that you trust:</p>
<pre>python -I verify.py . --key log.vkey</pre>
{tables}
</main>
</body>
</html>
"""


class Summary:
    """What is counted while records are read. Its size grows with the agents and entities, and not with the records."""

    def __init__(self) -> None:
        self.records = 0
        self.sets: set[str] = set()
        self.slices: set[bytes] = set()
        self.erasures: set[int] = set()
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._agents: Counter[str] = Counter()
        self._rows: list[Sequence[object]] = []
        self._times: list[float] = []

    def add(self, index: int, kind: str, agent: str, at: float, groups: Mapping[str, Sequence[str]]) -> None:
        """Counts one record; `groups` is (salt, content) by name, as it is stored."""
        shown = {name: orjson.loads(content) for name, (_, content) in groups.items() if content}
        decision, what = shown.get("decision", {}), shown.get("what", {})
        self._note_named(decision, keeps=groups.keys() >= KEEPING)
        self.records += 1
        at = at_ms(at) / 1000
        self._times = [min(at, *self._times), max(at, *self._times)] if self._times else [at, at]
        outcome = str(decision.get("outcome", ""))
        self._kinds[kind, outcome] += 1
        self._agents[agent] += 1
        if len(self._rows) < _ROWS:
            about = what.get("model") or what.get("resource") or what.get("action") or ""
            policies = decision.get("policies")
            why = (
                ", ".join(map(str, policies)) if policies and isinstance(policies, list) else decision.get("reason", "")
            )
            self._rows.append((index, _utc(at), kind, agent, outcome, about, why))

    def page(self, manifest: Mapping[str, Any]) -> bytes:
        """The page."""
        scope, (start, end) = manifest["scope"], manifest["range"]
        bounds = [_utc(ms / 1000) if ms is not None else "no bound" for ms in (scope["since_ms"], scope["until_ms"])]
        facts = [
            ("Log", manifest["log"]),
            ("Checkpoint", f"{manifest['size']} entries, root {manifest['root']}"),
            ("Made", _utc(manifest["made_at_ms"] / 1000)),
            ("Asked for", f"{scope['agent'] or 'all agents'}, since {bounds[0]}, until {bounds[1]}"),
            ("Records", f"{self.records} of the entries {start} to {end - 1}"),
            ("Times", " to ".join(map(_utc, self._times))),
        ]
        kinds = [(kind, outcome, count) for (kind, outcome), count in sorted(self._kinds.items())]
        agents = self._agents.most_common(_ROWS)
        sets = [(hash, f"policies/{hash}/") for hash in sorted(self.sets)]
        heads = ("Index", "Time (UTC)", "Kind", "Agent", "Outcome", "What", "Why")
        tables = [
            _table("What this is", (), facts),
            _table("Records by kind and outcome", ("Kind", "Outcome", "Records"), kinds),
            _table(_first("Records by agent", self._agents), ("Agent", "Records"), agents),
            _table("Policy sets that decided", ("Hash", "Folder"), sets),
            _table(_first("Records", range(self.records)), heads, self._rows),
        ]
        return _PAGE.format(log=escape(str(manifest["log"])), tables="\n".join(tables)).encode()

    def _note_named(self, decision: Mapping[str, Any], *, keeps: bool) -> None:
        """Which sets a decision names, in itself and in those within it, and the entities if the record keeps them."""
        for told in (decision, decision.get("enrolment"), decision.get("operator")):
            if isinstance(told, dict):
                set, entities = (str(told.get(name, "")) for name in ("set", "entities"))
                if _DIGEST.fullmatch(set):
                    self.sets.add(set)
                if keeps and _DIGEST.fullmatch(entities):
                    self.slices.add(bytes.fromhex(entities))


def _first(title: str, items: Any) -> str:
    return f"{title} (the first {_ROWS} of {len(items)})" if len(items) > _ROWS else title


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; without heads, the first cell of each row is its head."""
    lines = [f"<table><caption>{escape(caption)}</caption>"]
    if heads:
        lines.append("<tr>" + "".join(f'<th scope="col">{escape(head)}</th>' for head in heads) + "</tr>")
    for row in rows:
        cells = [f"<td>{escape(str(cell))}</td>" for cell in row]
        if not heads:
            cells[0] = f'<th scope="row">{escape(str(row[0]))}</th>'
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at_ms(at) // 1000, UTC).isoformat(" ", "seconds").replace("+00:00", "")
