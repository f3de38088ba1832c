"""The log entry and what it commits to. Frozen: a change here would orphan every record ever written.

An entry is canonical JSON {"agent_tag","kind","root","seq","v"}. `root` commits to seven groups of the
record's fields, each salted on its own, so that one group can be shown, or forgotten, without the others. For
each:

    commitment = SHA-256(0x00 ‖ name ‖ 0x00 ‖ salt ‖ content)

where content is canonical JSON, or no bytes if the group is absent. `root` is the RFC 6962 root over the
seven commitments in the order of `GROUPS`. The entry itself is a leaf of the log: SHA-256(0x00 ‖ entry).
Source: RFC 6962 §2.1, RFC 8785.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from broker.errors import Malformed, ProofInvalid
from broker.formats.canonical_json import MAX_SAFE_INTEGER, canonical, parse

GROUPS = ("who", "for_whom", "what", "decision", "request", "posture", "remedy")
"""Who acted; for whom; on what; the decision and its inputs; request and timing; posture; remedy."""

VERSION = 1
SALT_BYTES = 16
SALTS_BYTES = SALT_BYTES * len(GROUPS)

_HASH_BYTES = 32
_PREFIXES = tuple(b"\x00" + name.encode("ascii") + b"\x00" for name in GROUPS)
_MEMBERS = frozenset({"agent_tag", "kind", "root", "seq", "v"})
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,63}", re.ASCII)
_HEX_ROOT = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Committed:
    """What a record's groups came to.

    Attributes:
        root: 32 bytes, goes into the entry.
        commitments: 7 x 32 bytes in the order of `GROUPS`; stored beside the entry.
        contents: the canonical bytes of each group in the order of `GROUPS`; b"" where a group is absent.
    """

    root: bytes
    commitments: bytes
    contents: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A log entry taken apart: kind, the agent's pseudonym and running number, the root of its groups."""

    kind: str
    agent_tag: str
    seq: int
    root: bytes


def entry(kind: str, agent_tag: str, seq: int, root: bytes) -> bytes:
    """Writes a log entry as canonical JSON.

    Args:
        kind: the event's name: a letter, then letters, digits, "_" and ".", at most 64.
        agent_tag: the agent's pseudonym: printable ASCII without quotes or backslashes, at most 128;
            empty where the record concerns no agent.
        seq: the agent's own running number, from 0.
        root: 32 bytes, from `commit_groups`.

    Raises:
        Malformed: one of them is none of that.
    """
    if _KIND.fullmatch(kind) is None:
        raise Malformed("An entry's kind is a short name: a letter, then letters, digits, '_' or '.'.")
    if not _is_tag(agent_tag):
        raise Malformed("An entry's agent tag is up to 128 printable ASCII characters without quotes.")
    if not 0 <= seq <= MAX_SAFE_INTEGER or len(root) != _HASH_BYTES:
        raise Malformed("An entry needs a running number from 0 and a root of 32 bytes.")
    # None of these values needs an escape, so this is their canonical form; a test holds it equal to
    # `canonical`.
    text = f'{{"agent_tag":"{agent_tag}","kind":"{kind}","root":"{root.hex()}","seq":{seq},"v":{VERSION}}}'
    return text.encode("ascii")


def parse_entry(data: bytes) -> Entry:
    """Reads a log entry; takes only the exact bytes that `entry` writes.

    Raises:
        Malformed: another member, a missing one, another version, or another spelling.
    """
    value = parse(data, max_bytes=1024, max_depth=1)
    if not isinstance(value, dict) or set(value) != _MEMBERS or value["v"] != VERSION:
        raise Malformed(f"This is not a log entry of version {VERSION}.")
    kind, tag, seq, root = value["kind"], value["agent_tag"], value["seq"], value["root"]
    if not isinstance(kind, str) or not isinstance(tag, str) or not isinstance(root, str) or type(seq) is not int:
        raise Malformed("A member of the log entry has another type than it must.")
    if _HEX_ROOT.fullmatch(root) is None:
        raise Malformed("The log entry's root must be 64 lower-case hexadecimal digits.")
    found = Entry(kind, tag, seq, bytes.fromhex(root))
    if entry(found.kind, found.agent_tag, found.seq, found.root) != data:
        raise Malformed("The log entry is not in its canonical form.")
    return found


def commitment(name: str, salt: bytes, content: bytes) -> bytes:
    """The 32-byte commitment to one group.

    Args:
        name: one of `GROUPS`.
        salt: 16 unpredictable bytes, never used for another group or record.
        content: the group's canonical JSON, or b"" if the record has none.

    Raises:
        Malformed: an unknown group or a salt of another size.
    """
    if name not in GROUPS or len(salt) != SALT_BYTES:
        raise Malformed(f"A commitment needs one of the groups {', '.join(GROUPS)} and a salt of 16 bytes.")
    return sha256(_PREFIXES[GROUPS.index(name)] + salt + content).digest()


def groups_root(commitments: bytes) -> bytes:
    """The root over the seven commitments, 7 x 32 bytes in the order of `GROUPS`."""
    if len(commitments) != _HASH_BYTES * len(GROUPS):
        raise Malformed("There must be seven commitments of 32 bytes.")
    # merkle.root_of for exactly seven leaves, written out: this runs for every record.
    left = _node(_node(commitments[0:64]) + _node(commitments[64:128]))
    return _node(left + _node(_node(commitments[128:192]) + commitments[192:224]))


def commit_groups(groups: Mapping[str, object], salts: bytes) -> Committed:
    """Commits to a record's groups.

    Args:
        groups: JSON values by group name; an absent group counts as no bytes, which differs from an empty
            object.
        salts: 112 unpredictable bytes: 16 for each of the seven groups, absent ones too.

    Raises:
        Malformed: an unknown group, salts of another size, or a value JSON cannot say.
    """
    if len(salts) != SALTS_BYTES:
        raise Malformed(f"Seven groups need {SALTS_BYTES} bytes of salt.")
    contents = tuple([canonical(groups[name]) if name in groups else b"" for name in GROUPS])
    if len(groups) > len(GROUPS) - contents.count(b""):
        raise Malformed(f"A record has the groups {', '.join(GROUPS)} and no others.")
    commitments = b"".join(
        [
            sha256(prefix + salts[at : at + SALT_BYTES] + content).digest()
            for prefix, at, content in zip(_PREFIXES, range(0, SALTS_BYTES, SALT_BYTES), contents, strict=True)
        ]
    )
    return Committed(groups_root(commitments), commitments, contents)


def verify_groups(root: bytes, commitments: bytes, disclosed: Mapping[str, tuple[bytes, bytes]]) -> None:
    """Checks that the commitments make the root, and that each disclosed (salt, content) fits its own.

    Groups that are not disclosed stay hidden and are checked only through their commitments. Fails closed.

    Raises:
        ProofInvalid: something was altered, or is of a size or name that no record has.
    """
    try:
        if groups_root(commitments) != root:
            raise ProofInvalid("The commitments do not make the entry's root: one of them was altered.")
        for name, (salt, content) in disclosed.items():
            found = commitment(name, salt, content)
            at = GROUPS.index(name) * _HASH_BYTES
            if found != commitments[at : at + _HASH_BYTES]:
                raise ProofInvalid(f'The group "{name}" is not what the entry commits to: it was altered.')
    except Malformed as error:
        raise ProofInvalid(error.detail) from error


def _node(pair: bytes) -> bytes:
    return sha256(b"\x01" + pair).digest()


def _is_tag(value: str) -> bool:
    return len(value) <= 128 and value.isascii() and value.isprintable() and not ('"' in value or "\\" in value)
