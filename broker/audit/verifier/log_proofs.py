"""What a log's public key proves: signed notes, keys that follow each other, places in the tree. And strict JSON.

A part of verify.py, which a package brings as one file: see `broker.audit.verifier`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SUCCESSION = "log-key-succession v1"
MOST = 2**63
Head = tuple[str, int, bytes]  # of a checkpoint: origin, size, root
Handover = tuple[int, bytes]  # size and root of the tree at which one key followed another
MAYBE = None  # in a shape of JSON: a number, or null


class NotProved(Exception):
    """Something does not hold; the text says what."""


def sha256(*parts: bytes) -> bytes:
    """The digest of the parts, one after the other."""
    return hashlib.sha256(b"".join(parts)).digest()


def unbase64(text: str, where: str, length: int = 0) -> bytes:
    """Bytes from base64 in its one spelling, `length` of them if that is given."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise NotProved(f"{where}: no base64: {text!r:.60}") from error
    if base64.b64encode(data).decode() != text or (length and len(data) != length):
        raise NotProved(f"{where}: base64 of another length or spelling: {text!r:.60}")
    return data


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose members are named once each."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a member is named twice")
    return dict(pairs)


def no_number(text: str) -> None:
    """Refuses NaN and infinities, which are no JSON."""
    raise ValueError(f"{text} is no number")


def read_json(data: bytes, where: str, shape: Any) -> Any:
    """A JSON text of this shape."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise NotProved(f"{where}: no JSON in UTF-8 ({error}): {data[:60]!r}") from error
    check_shape(value, shape, where)
    return value


def check_shape(value: Any, shape: Any, where: str) -> None:
    """Makes sure that a JSON value has a shape; whole numbers are from 0 and below 2**63, texts are of characters.

    A shape is a type, [of each], or {name: of its value}: these names alone, but "name?" may be missing, and "" is any.
    """
    if isinstance(shape, dict) and isinstance(value, dict):
        known = {name.rstrip("?"): each for name, each in shape.items()}
        needed = {name for name in known if name in shape and name}
        for name in sorted((needed - value.keys()) | (set() if "" in shape else value.keys() - known.keys())):
            raise NotProved(f"{where}: the member {name!r:.60} {'is not known' if name in value else 'is missing'}")
        for name, each in value.items():
            check_shape(each, known.get(name, known.get("")), f"{where}, {name:.60}")
    elif isinstance(shape, list) and isinstance(value, list):
        for place, each in enumerate(value):
            check_shape(each, shape[0], f"{where}[{place}]")
    elif type(value) is int and shape in (int, MAYBE):
        if not 0 <= value < MOST:
            raise NotProved(f"{where}: a number out of bounds: {value!r:.60}")
    elif type(value) is str and shape is str:
        if not value.isascii() and value != value.encode("utf-8", "replace").decode():
            raise NotProved(f"{where}: half of a character: {value!r:.60}")
    elif shape is not Any and (value is not None or shape is not MAYBE):
        raise NotProved(f"{where}: of another type than it must be: {value!r:.60}")


class Key:
    """A verifier key: `name+id+base64(1 ‖ public key)`."""

    def __init__(self, text: str) -> None:
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise NotProved(f"no verifier key: {text!r:.80}")
        self.text, self.name = text.strip(), parts[0]
        raw = unbase64(parts[2], "a verifier key", 33)
        self.id = sha256(self.name.encode(), b"\n", raw)[:4]
        if raw[:1] != b"\1" or self.id.hex() != parts[1]:
            raise NotProved(f"a verifier key that was altered or cut: {text!r:.80}")
        self.public = Ed25519PublicKey.from_public_bytes(raw[1:])

    def check(self, note: str, where: str) -> str:
        """The text of a note that this key signed."""
        text, signatures = parted(note, where)
        mine = [signature for name, id, signature in signatures if (name, id) == (self.name, self.id)]
        if not mine:
            raise NotProved(f"{where}: not signed by the key {self.text}")
        for signature in mine:
            try:
                self.public.verify(signature, text.encode())
            except InvalidSignature as error:
                raise NotProved(f"{where}: a signature of {self.name} does not verify: the text was altered") from error
        return text


def parted(note: str, where: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """A signed note taken apart; nothing of it is verified."""
    text, gap, lines = note.rpartition("\n\n")
    if not gap or not lines.endswith("\n"):
        raise NotProved(f"{where}: no signed note")
    signatures = []
    for line in lines[:-1].split("\n"):
        words = line.split(" ")
        if len(words) != 3 or words[0] != "\u2014":
            raise NotProved(f"{where}: no line of a signature: {line!r:.80}")
        raw = unbase64(words[2], where)
        signatures.append((words[1], raw[:4], raw[4:]))
    return text + "\n", signatures


def checkpoint_of(text: str) -> Head:
    """A checkpoint (c2sp.org/tlog-checkpoint)."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise NotProved("checkpoint: it is origin, size and root, a line each")
    return lines[0], decimal(lines[1], "checkpoint"), unbase64(lines[2], "checkpoint", 32)


def decimal(text: str, where: str) -> int:
    """A number from 0 and below 2**63, in its one spelling."""
    if not re.fullmatch("0|[1-9][0-9]{0,18}", text) or int(text) >= MOST:
        raise NotProved(f"{where}: no number: {text!r:.40}")
    return int(text)


def reached(pinned: Key, statements: list[str]) -> list[tuple[Key, Handover, Handover]]:
    """The keys that follow from the pinned one, forwards and backwards, with the trees where each begins and ends.

    A statement is signed by both keys: at which size and root the new one took over from the old.
    """
    said = []
    for place, note in enumerate(statements):
        where = f"log-keys.json, successions[{place}]"
        lines = parted(note, where)[0].split("\n")
        if len(lines) != 7 or lines[0] != SUCCESSION or lines[-1]:
            raise NotProved(f"{where}: a succession of keys of another shape")
        old, new = Key(lines[2]), Key(lines[3])
        if not lines[1] == old.name == new.name:
            raise NotProved(f"{where}: a succession of keys of another log")
        old.check(note, where)
        new.check(note, where)
        said.append((old.text, new.text, (decimal(lines[4], where), unbase64(lines[5], where, 32))))
    line, bounds = [pinned.text], [(0, b""), (MOST, b"")]
    for _ in said:
        after = {each for each in said if each[0] == line[-1]}
        before = {each for each in said if each[1] == line[0]}
        if len(after) > 1 or len(before) > 1:
            raise NotProved("a key has two successors: somebody used it to tell two stories")
        for each in after:
            line.append(each[1])
            bounds.insert(-1, each[2])
        for each in before:
            line.insert(0, each[0])
            bounds.insert(1, each[2])
    if len(set(line)) != len(line) or [size for size, _ in bounds] != sorted(size for size, _ in bounds):
        raise NotProved("the successions of keys contradict each other")
    return [(Key(text), bounds[place], bounds[place + 1]) for place, text in reversed(list(enumerate(line)))]


def root_from(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes:
    """The root of the tree of `size` in which a proof says that the leaf is."""
    if not 0 <= index < size:
        raise NotProved(f"the tree has no entry {index}")
    node, place, last = leaf, index, size - 1
    for other in path:
        if last == 0:
            raise NotProved(f"the proof of entry {index} is too long")
        if place & 1 or place == last:
            node = sha256(b"\1", other, node)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            node = sha256(b"\1", node, other)
        place, last = place >> 1, last >> 1
    if last:
        raise NotProved(f"the proof of entry {index} is too short")
    return node


def root_of(hashes: list[bytes]) -> bytes:
    """The root over the hashes of leaves."""
    if len(hashes) == 1:
        return bytes(hashes[0])
    half = 1 << ((len(hashes) - 1).bit_length() - 1)
    return sha256(b"\1", root_of(hashes[:half]), root_of(hashes[half:]))
