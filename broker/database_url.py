"""Where a PostgreSQL server is, as configuration writes it: read once and strictly, and handed on in pieces.

The driver never sees the text, so no second reading of it can find another host or another mode. A password has no
place in it: it would stand wherever the text is shown.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from broker.origins import is_host, is_loopback

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_PATH = re.compile(r"/[A-Za-z0-9_./-]{1,90}")
_SHAPE = "write postgresql://user@host[:port]/database, or postgresql://user@/database?host=/folder/of/the/socket"
_FILES = ("sslrootcert", "sslcert", "sslkey")


def keywords(url: str) -> dict[str, str]:
    """The libpq keywords that a `postgresql://` URL stands for. Beyond loopback the server proves its name by TLS.

    Args:
        url: one server by name, address or the folder of its Unix socket (`?host=/…`), and `sslmode`, `sslrootcert`,
            `sslcert`, `sslkey` (libpq §34.1.2).

    Raises:
        ValueError: the text says what to write, and repeats nothing of what might be a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"is no address of a database; {_SHAPE}") from None
    if parts.scheme != "postgresql" or parts.fragment:
        raise ValueError(f"is no address of a PostgreSQL database; {_SHAPE}")
    if parts.password is not None:
        raise ValueError(
            "holds a password, which would be shown with it; name where it is in storage.database_password"
        )
    options = dict(given)
    unknown = sorted(name for name in options if name not in ("host", "sslmode", *_FILES))
    if unknown or len(options) != len(given):
        raise ValueError("takes host, sslmode, sslrootcert, sslcert and sslkey, each once, and nothing else")
    user, database = parts.username or "", parts.path.removeprefix("/")
    if not _NAME.fullmatch(user) or not _NAME.fullmatch(database):
        raise ValueError(f"names a user and a database in letters, digits and _ . -; {_SHAPE}")
    socket = options.pop("host", "")
    if bool(socket) == bool(host) or (socket and not _PATH.fullmatch(socket)) or (host and not is_host(host)):
        raise ValueError(f"names one server, by its host or by the folder of its socket; {_SHAPE}")
    files = [options[name] for name in _FILES if name in options and (name, options[name]) != ("sslrootcert", "system")]
    if not all(_PATH.fullmatch(file) for file in files):
        raise ValueError("takes sslrootcert, sslcert and sslkey as whole paths, such as /etc/broker/server-ca.pem")
    mode = options.get("sslmode", "")
    if host and not is_loopback(host) and mode != "verify-full":
        raise ValueError(
            "is beyond loopback: add ?sslmode=verify-full, and sslrootcert=/path if no public authority signed its "
            "certificate, or use the server's Unix socket"
        )
    if mode not in ("", "disable", "verify-full"):
        raise ValueError("takes sslmode=verify-full, or none on loopback; what is between proves nothing")
    if mode == "verify-full":
        options.setdefault("sslrootcert", "system")
    elif files:
        raise ValueError("names certificates, which sslmode=verify-full alone looks at: add it")
    return {
        "host": socket or host,
        "port": str(port or 5432),
        "user": user,
        "dbname": database,
        **options,
        "sslmode": mode or "disable",
    }
