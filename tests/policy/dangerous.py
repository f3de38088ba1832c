"""Policies of every form that nests or chains; as a program, puts the largest of each through Cedar."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping

from broker.errors import PolicyInvalid
from broker.policy import engine
from broker.policy.explain import explain
from broker.policy.source import statements
from tests.policy.world import agent, call, model, shipped_files

STACK = 2 * 1024 * 1024
C = "context.stream"


def _when(condition: str) -> str:
    scope = 'principal is Agent, action == Action::"call", resource is Model'
    return f'@id("x") permit ({scope}) when {{ {condition} }};'


def _chain(link: str, joined_by: str) -> Callable[[int], str]:
    return lambda n: _when(joined_by.join([link] * n))


def _nest(left: str, inside: str, right: str, rest: str = "") -> Callable[[int], str]:
    return lambda n: _when(left * n + inside + right * n + rest)


FORMS: Mapping[str, Callable[[int], str]] = {
    "and": _chain(C, " && "),
    "or": _chain(f"!{C}", " || "),
    "unless-or": lambda n: _when(C)[:-1] + " unless { " + " || ".join([f"!{C}"] * n) + " };",
    "plus": lambda n: _when(" + ".join(["1"] * n) + " > 0"),
    "minus": lambda n: _when(" - ".join(["1"] * n) + " < 0"),
    "times": lambda n: _when(" * ".join(["1"] * n) + " > 0"),
    "equal": _chain("1 == 1", " && "),
    "less": _chain("1 < 2", " && "),
    "has": _chain("context has stream", " && "),
    "like": _chain('principal.owner like "a*"', " && "),
    "is": _chain("principal is Agent", " && "),
    "in": _chain('resource in Endpoint::"a"', " && "),
    "and-right": _nest(f"{C} && (", "true", ")"),
    "or-right": _nest(f"!{C} || (", "true", ")"),
    "equal-right": _nest("true == (", "true", ")"),
    "equal-left": _nest("(", "true", " == true)"),
    "plus-right": _nest("(1 + ", "1", ")", " > 0"),
    "not": _nest("!(", C, ")"),
    "nots": _nest("!!!!(", C, ")"),
    "negative": _nest("-(", "1", ")", " < 7"),
    "negatives": _nest("----(", "1", ")", " < 7"),
    "brackets": _nest("(", C, ")"),
    "list": _nest("[", "1", "]", " == [1]"),
    "record": _nest("{a: ", "1", "}", " == {a: 1}"),
    "list-of-records": _nest("[{a: ", "1", "}]", " == [1]"),
    "if": _nest("if ", C, f" then true else {C}"),
    "then": _nest(f"if {C} then ", "true", f" else {C}"),
    "else": _nest(f"if {C} then {C} else ", "true", ""),
    "contains": _nest("", "[1]", ".contains(1)"),
    "contains-inside": _nest("[1].contains(", "1", ")"),
    "is-empty": _nest("", "[]", ".isEmpty()"),
    "has-tag": _nest("principal.hasTag(", '"a"', ")"),
    "has-path": lambda n: _when("context has " + ".".join(["a"] * n)),
    "attribute": _nest("", "context", ".stream"),
    "index": _nest("", "context", '["stream"]'),
    "function": _nest("ip(", '"1"', ")"),
    "when": lambda n: _when("true")[:-1] + f" when {{ {C} }}" * n + ";",
}


def largest(form: str) -> str:
    """The largest policy of a form that the limits let through."""
    n = next(n for n in range(2, 3_000) if not _fits(FORMS[form](n)))
    return FORMS[form](n - 1)


def _fits(text: str) -> bool:
    try:
        return bool(statements("f.cedar", text))
    except PolicyInvalid:
        return False


def _through_cedar() -> None:
    for form in FORMS:
        for text in (largest(form), *(FORMS[form](n) for n in (98, 60, 23, 10))):
            try:
                policies = engine.compile(shipped_files().schema, {"f.cedar": text})
            except PolicyInvalid:  # a hundred levels are too many for cedarpy, and not every form has a meaning
                continue
            entities = policies.prepare([agent(), model()])
            for stream in (True, False):
                explain(policies, call(agent(), model(), stream=stream), entities)
        sys.stdout.write(f"{form}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    threading.stack_size(STACK)
    thread = threading.Thread(target=_through_cedar)
    thread.start()
    thread.join()
    sys.stdout.write("done\n")
