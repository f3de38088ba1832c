"""What became of a change: the same words whichever command proposed it."""

from __future__ import annotations

from typing import Any

from broker.cli import differences
from broker.cli.api import Api
from broker.cli.output import plain, print_json, say

_LINK_HINT = "One-time sign-in links, shown this once and good for ten minutes. Hand each to its operator in private:"


def show(outcome: dict[str, Any], *, json: bool) -> None:
    """Prints an outcome of the API.

    Args:
        outcome: `id`, `status`, `record`, `differences`, `reach` and `sign_in_links`.
        json: print it as it is.
    """
    if json:
        print_json(outcome)
        return
    differences.show(outcome["differences"], outcome["reach"])
    status, id = outcome["status"], outcome["id"]
    if status == "unchanged":
        say("Nothing to change: it is so already.")
    elif status == "checked":
        say(_what_would_be(outcome["reach"]))
        say(f"Checked, and nothing was changed. The change would be {id}.", "bold")
    elif status == "pending":
        say(f"Proposed as record {outcome['record']}, and not in force: a second admin must approve it.", "bold yellow")
        say(
            f"The other admin looks at it and approves it with\n  broker apply review {id}\n  broker apply approve {id}"
        )
    else:
        say(f"In force, as record {outcome['record']} says.", "bold green")
    if outcome["sign_in_links"]:
        say(_LINK_HINT, "bold")
        for name, link in outcome["sign_in_links"].items():
            say(f"  {name}: broker login '{link}'")


def _what_would_be(reach: dict[str, Any]) -> str:
    if reach["waits_for"]:
        return f"It would wait for a second person ({' or '.join(reach['waits_for'])}), because it widens access."
    why = "nobody else who has signed in may approve" if reach["widens"] else "it narrows only"
    return f"It would be in force at once: {why}."


def contain(section: str, name: str, status: str, why: str, *, json: bool) -> None:
    """Takes rights from one thing at once, and says so."""
    with Api() as api:
        outcome = api.post("/contain", {"section": section, "name": name, "status": status, "why": why})
    if json:
        print_json(outcome)
    elif outcome["status"] == "unchanged":
        say(f"{plain(name)} is {status} already.")
    else:
        say(f"{plain(name)} is {status} now, as record {outcome['record']} says.")
