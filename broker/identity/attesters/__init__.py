"""Attesters: the issuers of evidence that we trust, one file a platform, and what their evidence becomes."""

from __future__ import annotations

from broker.identity.attesters.attester import REGISTERED_KEYS, Attested, Attester, AttesterRow, load, store

__all__ = ["REGISTERED_KEYS", "Attested", "Attester", "AttesterRow", "load", "store"]
