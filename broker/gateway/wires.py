"""The wire formats that the gateway speaks, by name."""

from __future__ import annotations

from broker.gateway.anthropic_wire import ANTHROPIC
from broker.gateway.openai_wire import OPENAI
from broker.gateway.wire import Wire

WIRES: dict[str, Wire] = {wire.name: wire for wire in (OPENAI, ANTHROPIC)}
"""Every format; endpoints name one of them."""
