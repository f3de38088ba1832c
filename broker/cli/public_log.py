"""A log's public bytes, which anybody may read: checkpoint, statements about its keys, tiles."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from broker.cli.api import check_answer, saved_login, sending
from broker.errors import ConfigurationError, Malformed, NotFound
from broker.formats import succession, tiles

_TIMEOUT_S = 60.0
_MAX_BYTES = 8 * 1024 * 1024


class PublicLog:
    """A log behind an address. Nothing that it gives was verified. Use it as a context manager.

    Args:
        url: the broker's address; that of the saved sign-in unless given.
        folder: keeps tiles once they are verified, so that whole ones are fetched once; None keeps none.

    Raises:
        ConfigurationError: there is no address, or it is none.
    """

    def __init__(self, url: str = "", folder: Path | None = None) -> None:
        self.url = (url or saved_login().issuer).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"--url: {self.url!r} is no address; it looks like https://broker.example.com:8443"
            )
        self.fetched = 0
        """How many tiles the log was asked for."""
        self.given = ""
        """The checkpoint that it gave last, whatever it is worth."""
        self._folder = folder
        self._continues = False
        self._waiting: dict[tuple[int, int], bytes] = {}
        self._client = httpx2.Client(timeout=_TIMEOUT_S)

    def __enter__(self) -> Self:
        """Opens nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections."""
        self._client.close()

    def checkpoint(self) -> str:
        """The newest checkpoint, a signed note."""
        self.given = self._get("checkpoint").decode("utf-8", "replace")
        return self.given

    def successions(self) -> tuple[str, ...]:
        """The statements by which the log's keys followed each other."""
        return succession.published(self._get("keys"))

    def is_ready(self) -> bool:
        """Whether the broker says that it can record."""
        try:
            return self._client.get(f"{self.url}/readyz").is_success
        except httpx2.RequestError:
            return False

    def fetch(self, level: int, n: int, width: int) -> bytes:
        """The first `width` hashes of a tile (`broker.formats.tiles.Tiles`)."""
        self.fetched += 1
        return self._get(tiles.path(level, n, width))

    def kept(self, level: int, n: int, width: int = tiles.SPAN) -> bytes | None:
        """A tile out of the folder."""
        if self._folder is None:
            return None
        try:
            return (self._folder / tiles.path(level, n, width)).read_bytes()
        except FileNotFoundError:
            return None

    def keep(self, level: int, n: int, data: bytes) -> None:
        """Puts a tile into the folder, in the place of a shorter one; once `continues` was called."""
        if self._folder is None:
            return
        if not self._continues:
            self._waiting[level, n] = data
            return
        place = self._folder / tiles.path(level, n, len(data) // 32)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(place.name + ".partial")
        partial.write_bytes(data)
        partial.replace(place)
        shorter = place.parent if place.parent.suffix == ".p" else place.with_name(place.name + ".p")
        for old in shorter.glob("*"):
            if old != place:
                old.unlink()

    def continues(self) -> None:
        """The log was shown to continue what was kept: until then the tiles that were kept are proof, and stay."""
        self._continues = True
        for (level, n), data in self._waiting.items():
            self.keep(level, n, data)

    def _get(self, path: str) -> bytes:
        with sending(self.url), self._client.stream("GET", f"{self.url}/log/{path}") as answer:
            data = b""
            for piece in answer.iter_bytes():
                data += piece
                if len(data) > _MAX_BYTES:
                    raise Malformed(f"{self.url}/log/{path} is larger than anything that a log publishes.")
            check_answer(answer, data)
            return data


class KeptTiles:
    """The tiles of a log's folder alone: what the log was when they were verified.

    Args:
        log: the log whose folder it is.
    """

    def __init__(self, log: PublicLog) -> None:
        self._log = log

    def fetch(self, level: int, n: int, width: int) -> bytes:
        """A tile as it was kept, or the beginning of the whole one.

        Raises:
            NotFound: it was not kept.
        """
        found = self._log.kept(level, n, width) or self._log.kept(level, n)
        if found is None:
            raise NotFound("The tile was not kept.")
        return found[: 32 * width]

    def kept(self, _level: int, _n: int) -> None:
        """Nothing besides."""

    def keep(self, level: int, n: int, data: bytes) -> None:
        """Is kept already."""
