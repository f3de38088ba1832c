"""The one door to private keys: a folder that only its owner can read, sealed at rest if the configuration says so.

An attacker who can read it, and open what is sealed, can issue tokens and sign checkpoints as this broker until the
keys are replaced; the audit log then shows no records for such tokens. Keys never leave this package but as objects
that sign.
"""

from __future__ import annotations

from broker.keys.files import KeyFolder, load_private_pem
from broker.keys.ring import KeyRing, SigningKey
from broker.keys.sealed import Seal, Unlock

__all__ = ["KeyFolder", "KeyRing", "Seal", "SigningKey", "Unlock", "load_private_pem"]
