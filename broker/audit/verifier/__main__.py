"""`python -m broker.audit.verifier > verify.py`: the verifier of evidence packages, from the source."""

from __future__ import annotations

import sys

from broker.audit import verifier

sys.stdout.buffer.write(verifier.text())
