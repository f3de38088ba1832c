"""The log's key is replaced: a new key follows the old one, on record and at one exact size of the tree.

Order: the new key is durable on disk → the head is read → both keys sign the statement → one step, durable at once: the
record with the statement, its row, and the head signed again. If the tree grew meanwhile, nothing happened and it
begins again. Died before the step: a key that was never used lies in the folder, until the next start destroys it.
Died after it: the next start finds the row.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from broker.audit.events import BROKER, Event, Group, Kind
from broker.audit.log import AuditLog, Receipt, Step
from broker.audit.log_keys import LogKeys, SuccessionRow
from broker.audit.tree import AuditTree, sign_head_again, signed_head, stored_head
from broker.clock import Clock
from broker.db.engine import reading
from broker.entropy import Entropy, new_id
from broker.errors import Conflict, Unavailable
from broker.formats import checkpoint, succession
from broker.formats.note import NoteSigner
from broker.formats.succession import Succession
from broker.keys import KeyRing

_TRIES = 20


class LogRotation:
    """Replaces the log's key, one replacement at a time.

    Args:
        engine: the database.
        ring: holds the private halves.
        keys: says which of them sign.
        tree: what they sign.
        audit: where it is recorded.
        clock: the time.
        entropy: names the broker's own steps.
        overlap_s: how long an old key signs beside the new one, unless somebody may have stolen it.
    """

    def __init__(
        self,
        engine: Engine,
        ring: KeyRing,
        keys: LogKeys,
        tree: AuditTree,
        audit: AuditLog,
        clock: Clock,
        entropy: Entropy,
        *,
        overlap_s: float,
    ) -> None:
        self._engine = engine
        self._ring = ring
        self._keys = keys
        self._tree = tree
        self._audit = audit
        self._clock = clock
        self._entropy = entropy
        self._overlap_s = overlap_s
        self._turn = asyncio.Lock()

    def load(self) -> None:
        """Reads which keys sign. Call it at start.

        Raises:
            ConfigurationError: a key that signs is missing.
        """
        with reading(self._engine) as session:
            self._keys.load(session.connection())

    def tidy(self) -> None:
        """Destroys what is left of keys that ended or never signed.

        Call it at start, once the log is seen to continue: an older database knows nothing of newer keys.
        """
        with reading(self._engine) as session:
            signing = {signer.vkey for signer in self._keys.signing(session.connection())}
        for vkey in set(self._ring.log_signers) - signing:
            self._ring.destroy_log_key(vkey)

    async def rotate(self, why: str, *, by: str, request_id: str, compromised: bool) -> Receipt:
        """Replaces the key that signs now.

        Args:
            why: what the record says.
            by: the operator who asked for it.
            request_id: of the request.
            compromised: the old key signs nothing from now on, not even beside the new one.

        Raises:
            Unavailable: it is not recorded, and nothing changed unless the text says otherwise.
        """
        async with self._turn:
            new = await asyncio.to_thread(self._ring.make_log_key)
            for _ in range(_TRIES):
                await asyncio.to_thread(self._tree.integrate)
                try:
                    return await self._follow(new, why, by=by, request_id=request_id, compromised=compromised)
                except Conflict:
                    continue  # the tree grew
            self._ring.destroy_log_key(new.vkey)
            raise Unavailable("The log grows too fast to hand over its key just now. Nothing was changed; try again.")

    async def advance(self) -> None:
        """Ends the keys whose overlap is over, and destroys them once that is recorded."""
        async with self._turn:
            now = self._clock.now()
            with reading(self._engine) as session:
                rows = session.exec(
                    select(SuccessionRow).where(
                        col(SuccessionRow.ended_at).is_(None), col(SuccessionRow.overlaps_until) <= now
                    )
                ).all()
            for row in rows:
                await self._end(row, now)

    async def _follow(self, new: NoteSigner, why: str, *, by: str, request_id: str, compromised: bool) -> Receipt:
        now = self._clock.now()
        with reading(self._engine) as session:
            connection = session.connection()
            head, signing = stored_head(connection), self._keys.signing(connection)
        if head is None:
            raise Unavailable("The log has no checkpoint yet. Try again in a second.")
        tree, old = signed_head(head, signing[0]), signing[0]
        said = Succession(tree.origin, old.vkey, new.vkey, tree.size, tree.root)
        statement = succession.sign(said, old, new)
        overlaps_until = now if compromised else now + self._overlap_s
        beside = () if compromised else signing
        signed = checkpoint.sign(tree, new, *beside)
        remedy = {
            "old": old.vkey,
            "new": new.vkey,
            "size": tree.size,
            "statement": statement,
            "overlaps_until_ms": int(overlaps_until * 1000),
            "compromised": compromised,
            "why": why,
        }
        event = self._event(Kind.LOG_KEY_ROTATED, by, now, request_id, remedy)

        def change(session: Session) -> None:
            if not sign_head_again(session.connection(), head, signed):
                raise Conflict("The tree grew meanwhile.")
            rows = session.exec(select(SuccessionRow)).all()
            if compromised:
                for row in rows:
                    row.ended_at = row.ended_at or now
            session.add(
                SuccessionRow(
                    id=len(rows) + 1, old=old.vkey, new=new.vkey, size=tree.size, statement=statement, made_at=now,
                    overlaps_until=overlaps_until, ended_at=now if compromised else None,
                )
            )  # fmt: skip

        def landed(_result: object) -> None:
            self._keys.vkey = new.vkey
            if compromised:
                for each in signing:
                    self._ring.destroy_log_key(each.vkey)

        return await self._audit.record(Step((event,), change=change, landed=landed))

    async def _end(self, row: SuccessionRow, now: float) -> None:
        id, old = row.id, row.old
        remedy = {"key": old, "why": "the time in which it signed beside the key that follows it is over"}
        event = self._event(Kind.LOG_KEY_ENDED, BROKER, now, new_id(self._entropy), remedy)

        def change(session: Session) -> None:
            found = session.get(SuccessionRow, id)
            if found is not None:
                found.ended_at = now
                session.add(found)

        await self._audit.record(Step((event,), change=change, landed=lambda _result: self._ring.destroy_log_key(old)))

    def _event(self, kind: Kind, by: str, now: float, request_id: str, remedy: Group) -> Event:
        what = {"action": "rotate", "key": "log"}
        return Event(kind, agent=by, at=now, request_id=request_id, what=what, remedy=remedy)
