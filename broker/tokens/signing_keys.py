"""The life of the keys that sign tokens: published → in use → retiring → ended, each step recorded before its effect.

A key is published for longer than anybody may cache the key set before it signs anything; one that another has followed
verifies until the last token that it signed has ended. A key that may have been stolen ends at once, and its tokens
with it; whoever cached the key set learns of that when the cache ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Engine
from sqlmodel import Field, Session, SQLModel, select

from broker.audit.events import BROKER, Event, Group, Kind
from broker.audit.log import AuditLog, Receipt, Step
from broker.clock import Clock
from broker.db.engine import reading
from broker.entropy import Entropy, new_id
from broker.errors import ConfigurationError, Conflict, NotFound
from broker.keys import KeyRing
from broker.keys.ring import Algorithm

log = logging.getLogger(__name__)

JWKS_MAX_AGE_S = 300
"""How long others may keep the key set."""

PUBLISHED_FOR_S = 2 * JWKS_MAX_AGE_S
"""How long a key is published before it signs."""

ALL = "all"
"""Names every token key where one is named that somebody else may hold; no key's id is so short."""

_MARGIN_S = 60.0
_DAY_S = 86_400.0


class SigningKeyRow(SQLModel, table=True):
    """A key for tokens and the moments of its life, in seconds; those that are still to come are null."""

    __tablename__ = "signing_keys"

    kid: str = Field(primary_key=True)
    algorithm: str
    published_at: float
    used_from: float | None = None
    followed_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class SigningKeyLife:
    """What is known of one key. Times in seconds; None for what has not come yet."""

    kid: str
    algorithm: str
    published_at: float
    used_from: float | None = None
    followed_at: float | None = None
    ended_at: float | None = None

    @property
    def status(self) -> str:
        """One of "published", "in use", "retiring" and "ended"."""
        if self.ended_at is not None:
            return "ended"
        if self.followed_at is not None:
            return "retiring"
        return "published" if self.used_from is None else "in use"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When keys follow each other.

    Args:
        algorithm: what keys are made for; when it changes, the next key comes at once.
        period_s: how long a key signs; 0 for no schedule.
        token_life_s: how long its last token lives after it was followed.
    """

    algorithm: Algorithm
    period_s: float
    token_life_s: float


class SigningKeys:
    """The keys that sign tokens, one step of their lives at a time.

    Args:
        engine: the database.
        ring: holds the private halves, and shows what is in use to those who sign and verify.
        audit: where each step is recorded.
        schedule: when keys follow each other.
        clock: the time.
        entropy: names the broker's own steps.
    """

    def __init__(
        self, engine: Engine, ring: KeyRing, audit: AuditLog, schedule: Schedule, clock: Clock, entropy: Entropy
    ) -> None:
        self._engine = engine
        self._ring = ring
        self._audit = audit
        self._schedule = schedule
        self._clock = clock
        self._entropy = entropy
        self._turn = asyncio.Lock()
        self._lives: Mapping[str, SigningKeyLife] = {}

    @property
    def lives(self) -> Sequence[SigningKeyLife]:
        """Every key there ever was, in the order in which they were published."""
        return sorted(self._lives.values(), key=lambda life: life.published_at)

    def next_at(self) -> float | None:
        """When the next key comes into use, in seconds; None if the schedule names no time."""
        now_in_use = self._one("in use")
        coming = self._one("published")
        if coming is not None:
            return coming.published_at + PUBLISHED_FOR_S
        if now_in_use is None or now_in_use.used_from is None or not self._schedule.period_s:
            return None
        return now_in_use.used_from + self._schedule.period_s

    async def start(self) -> None:
        """Takes into use what the database says; the first time, records the key that the folder has.

        Raises:
            ConfigurationError: a key is missing from the folder.
        """
        with reading(self._engine) as session:
            self._lives = stored(session)
        if not self._lives:
            now = self._clock.now()
            lives = [SigningKeyLife(kid, key.algorithm, now, now) for kid, key in self._ring.token_keys.items()]
            current = self._ring.current.kid
            lives = [life if life.kid == current else replace(life, followed_at=now) for life in lives]
            events = [self._event(Kind.KEY_IN_USE, BROKER, now, "start", current, {"why": "the first key"})]
            await self._record(events, lives)
        self._take_into_use()

    async def advance(self) -> None:
        """Does what is due: ends keys, takes the published one into use, publishes the next."""
        async with self._turn:
            now = self._clock.now()
            for life in self.lives:
                if life.followed_at is not None and life.ended_at is None and now >= life.followed_at + self._rest_s:
                    told: Group = {"why": "every token that it signed has ended"}
                    event = self._event(Kind.KEY_ENDED, BROKER, now, new_id(self._entropy), life.kid, told)
                    await self._record([event], [replace(life, ended_at=now)])
            coming, current = self._one("published"), self._one("in use")
            if coming is not None:
                if now >= coming.published_at + PUBLISHED_FOR_S:
                    await self._follow(coming, now)
            elif current is not None and (why := self._due(current, now)):
                await self._publish(now, by="broker", request_id=new_id(self._entropy), why=why)

    async def rotate(self, why: str, *, by: str, request_id: str) -> Receipt:
        """Publishes the next key now; it comes into use when everybody can know it.

        Raises:
            Conflict: one is published already, or a step before this one landed late.
            Unavailable: not recorded.
        """
        async with self._turn:
            if self._one("published") is not None:
                raise Conflict("The next key is published already, and comes into use by itself: `broker keys show`.")
            return await self._publish(self._clock.now(), by=by, request_id=request_id, why=why)

    async def contain(self, kid: str, why: str, *, by: str, request_id: str) -> Receipt:
        """Ends a key at once, and with it every token that it signed. If it was in use, another signs from now on.

        Args:
            kid: the key, or `ALL` for every key: whoever stole the folder has the one that waits in it as well.
            why: what the record says.
            by: the operator who asked for it.
            request_id: of the request.

        Raises:
            NotFound: there is no such key.
            Conflict: it has ended, or a step before this one landed late.
            Unavailable: not recorded.
        """
        async with self._turn:
            now, known = self._clock.now(), self._lives
            if kid != ALL and kid not in known:
                raise NotFound(f"There is no token key {kid}.")
            ending = [life for life in self.lives if life.ended_at is None and kid in (ALL, life.kid)]
            if not ending:
                raise Conflict(f"The key {kid} has ended already, and no token of it is taken.")
            events, lives = [], []
            if any(life.status == "in use" for life in ending):
                other = self._one("published")
                if other is None or other in ending:
                    other = await self._made(now, anew=True)
                    events.append(self._event(Kind.KEY_PUBLISHED, by, now, request_id, other.kid, {"why": why}))
                lives.append(replace(other, used_from=now))
                told: Group = {"follows": self._ring.current.kid, "why": "the key before it ended at once"}
                events.append(self._event(Kind.KEY_IN_USE, by, now, request_id, other.kid, told))
            for life in ending:
                ended: Group = {"compromised": True, "why": why}
                events.append(self._event(Kind.KEY_ENDED, by, now, request_id, life.kid, ended))
                lives.append(replace(life, followed_at=life.followed_at or now, ended_at=now))
            return await self._record(events, lives)

    @property
    def _rest_s(self) -> float:
        return self._schedule.token_life_s + _MARGIN_S

    def _due(self, current: SigningKeyLife, now: float) -> str:
        """Why the next key is to be published now; empty if it is not."""
        if current.algorithm != self._schedule.algorithm:
            return f"keys.algorithm is {self._schedule.algorithm}"
        used_from = current.used_from or current.published_at
        if self._schedule.period_s and now >= used_from + self._schedule.period_s - PUBLISHED_FOR_S:
            return f"it signs for {self._schedule.period_s / _DAY_S:g} days"
        return ""

    async def _publish(self, now: float, *, by: str, request_id: str, why: str) -> Receipt:
        life = await self._made(now)
        event = self._event(
            Kind.KEY_PUBLISHED, by, now, request_id, life.kid,
            {"algorithm": life.algorithm, "in_use_from_ms": int((now + PUBLISHED_FOR_S) * 1000), "why": why},
        )  # fmt: skip
        return await self._record([event], [life])

    async def _follow(self, coming: SigningKeyLife, now: float) -> Receipt:
        current = self._one("in use")
        lives = [replace(coming, used_from=now)] + ([replace(current, followed_at=now)] if current else [])
        told = {"follows": current.kid if current else "", "why": "everybody can know it by now"}
        event = self._event(Kind.KEY_IN_USE, BROKER, now, new_id(self._entropy), coming.kid, told)
        return await self._record([event], lives)

    async def _made(self, now: float, *, anew: bool = False) -> SigningKeyLife:
        """A new key, durable in the folder and known to nobody yet.

        One that an earlier try left comes first, unless the key is to be made `anew`: whoever stole one key from the
        folder may have stolen what lay beside it.
        """
        unused = [key for kid, key in self._ring.token_keys.items() if kid not in self._lives and not anew]
        left = [key for key in unused if key.algorithm == self._schedule.algorithm]
        if left:
            return SigningKeyLife(left[0].kid, left[0].algorithm, now)
        known = self._lives
        key = await asyncio.to_thread(self._ring.make_token_key, self._schedule.algorithm)
        if self._lives is not known:
            raise _overtaken()
        return SigningKeyLife(key.kid, key.algorithm, now)

    async def _record(self, events: Iterable[Event], lives: Sequence[SigningKeyLife]) -> Receipt:
        """One step: the records and what they say of the keys; shown to signers and verifiers once it is durable.

        Raises:
            Conflict: what is stored is not what the step was thought out from: one before it landed late.
        """
        known = self._lives

        def change(session: Session) -> None:
            if stored(session) != known:
                raise _overtaken()
            for life in lives:
                session.merge(SigningKeyRow(**asdict(life)))

        def landed(_result: object) -> None:
            self._lives = {**self._lives, **{life.kid: life for life in lives}}
            self._take_into_use()

        return await self._audit.record(Step(tuple(events), change=change, landed=landed))

    def _take_into_use(self) -> None:
        """Shows what the lives say, and destroys what is left of keys that ended or never began."""
        show(self._lives, self._ring)
        for kid in set(self._ring.token_keys) - {kid for kid, life in self._lives.items() if life.ended_at is None}:
            log.info("the token key %s is in use no more, and is destroyed", kid)
            self._ring.destroy_token_key(kid)

    def _one(self, status: str) -> SigningKeyLife | None:
        return next((life for life in self.lives if life.status == status), None)

    def _event(self, kind: Kind, by: str, now: float, request_id: str, kid: str, told: Group) -> Event:
        what = {"action": "rotate", "key": kid}
        return Event(kind, agent=by, at=now, request_id=request_id, what=what, remedy={"key": kid, **told})


def stored(session: Session) -> dict[str, SigningKeyLife]:
    """The lives of all keys as they are stored, by key id."""
    return {row.kid: SigningKeyLife(**row.model_dump()) for row in session.exec(select(SigningKeyRow))}


def show(lives: Mapping[str, SigningKeyLife], ring: KeyRing) -> None:
    """Takes into use what the lives say.

    Raises:
        ConfigurationError: a key that has not ended is not in the folder, or none is in use.
    """
    current = [life.kid for life in lives.values() if life.status == "in use"]
    if len(current) != 1:
        raise ConfigurationError(f"the database says that {len(current)} token keys sign; restore it from a backup")
    live = sorted((life for life in lives.values() if life.ended_at is None), key=lambda life: life.published_at)
    ring.use([life.kid for life in live], current[0])


def _overtaken() -> Conflict:
    return Conflict("The keys changed meanwhile, and nothing else was done. Look first: `broker keys show`.")
