"""Replay memory: what was used once is not used again, and evidence stays with the first key that used it.

The memory answers at once; the same claims become durable with the record of the request (`broker.db.claims`), and a
restarted process begins with all that have not ended. Both outlive the window in which a proof is accepted.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from broker.db.claims import Claim
from broker.errors import Unavailable

MARGIN_S = 60
"""How much longer than its acceptance window a claim is kept, in seconds: a clock may go back by so much."""


class ReplayMemory:
    """The claims in force, in this process. Fails closed: a full memory refuses.

    Args:
        claims: what was in force when the process began.
        capacity: how many claims may be in force at once.
    """

    def __init__(self, claims: Iterable[Claim] = (), *, capacity: int = 2_000_000) -> None:
        self._capacity = capacity
        self._held: dict[str, Claim] = {claim.key: claim for claim in claims}
        self._ends = [(claim.expires_at, claim.key) for claim in self._held.values()]
        heapq.heapify(self._ends)

    def __len__(self) -> int:
        """How many claims are in force."""
        return len(self._held)

    def claim(self, wish: Claim, now: float) -> bool:
        """Takes a claim; False when it is held, or held with another value.

        Args:
            wish: an empty value means once and never again.
            now: seconds since the epoch.

        Raises:
            Unavailable: the memory is full.
        """
        self._forget(now)
        held = self._held.get(wish.key)
        if held is not None:
            return bool(wish.value) and held.value == wish.value
        if len(self._held) >= self._capacity:
            raise Unavailable("Too many requests are remembered at the moment. Try again in a minute.")
        self._held[wish.key] = wish
        heapq.heappush(self._ends, (wish.expires_at, wish.key))
        return True

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            del self._held[key]


def proof_claim(thumbprint: str, jti: str, *, iat: int, window_s: int) -> Claim:
    """The claim of a DPoP proof: its `jti` under its key, until no proof of that time is accepted (RFC 9449 §11.1)."""
    return Claim(f"proof:{thumbprint}:{jti}", "", iat + window_s + MARGIN_S, iat)
