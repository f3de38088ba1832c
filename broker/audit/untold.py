"""What the next start's record has to tell: that the data was restored, or that records are lost.

It waits in a file of the data folder until that record is durable, so that no crash in between hides a gap from
auditors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson

from broker.errors import ConfigurationError, Unavailable
from broker.files import replace_private

FILE = "untold"
"""Its name in the data folder."""


class Untold:
    """The file.

    Args:
        folder: the data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def remedy(self) -> dict[str, object]:
        """What is to be told, as it goes into the record; empty if nothing is.

        Raises:
            ConfigurationError: it cannot be read.
        """
        try:
            found: dict[str, object] = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self._path}: cannot be read: {error}; restore the backup once more") from error
        return found

    def add(self, told: Mapping[str, object]) -> None:
        """Adds to what is to be told, durably.

        Raises:
            Unavailable: it could not be written.
        """
        try:
            replace_private(self._path, orjson.dumps({**self.remedy(), **told}))
        except OSError as error:
            raise Unavailable(f"{self._path}: cannot be written: {error.strerror}. Make room there.") from error

    def told(self) -> None:
        """Takes the file away, once its record is durable. Died before: it is told twice."""
        self._path.unlink(missing_ok=True)
