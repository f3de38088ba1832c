"""A token's receipt: the log's record of it, opened as far as its holder needs to see that it is there.

    {"index": 41, "entry": base64, "commitments": base64, "salt": base64, "content": "the group `what`, canonical JSON"}

The token endpoint gives it with the token, and the log proves (c2sp.org/tlog-proof) that the entry is a leaf. A token
that was made with a stolen signing key has no record, so whoever demands a receipt does not take it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.errors import Malformed, ProofInvalid
from broker.formats import canonical_json, note, record, succession, tlog_proof
from broker.formats.merkle import leaf_hash
from broker.formats.note import NoteVerifier

KIND = "TokenIssued"
GROUP = "what"
_MEMBERS = frozenset({"index", "entry", "commitments", "salt", "content"})


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the token endpoint says of the record; only `check` makes it mean something.

    Attributes:
        index: the record's, from 0.
        entry: the log entry's exact bytes.
        commitments: of all its groups.
        salt: of the group `what`.
        content: that group, canonical JSON.
    """

    index: int
    entry: bytes
    commitments: bytes
    salt: bytes
    content: str

    def to_members(self) -> dict[str, object]:
        """As it travels."""
        return {
            "index": self.index,
            "entry": note.encode_base64(self.entry),
            "commitments": note.encode_base64(self.commitments),
            "salt": note.encode_base64(self.salt),
            "content": self.content,
        }


def parse(members: object) -> Receipt:
    """Reads a receipt; checks its shape only.

    Raises:
        Malformed: another shape.
    """
    if not isinstance(members, Mapping) or set(members) != _MEMBERS:
        raise Malformed(f"A receipt has the members {', '.join(sorted(_MEMBERS))}.")
    index, texts = members["index"], [members[name] for name in ("entry", "commitments", "salt", "content")]
    if type(index) is not int or not 0 <= index < 2**63 or not all(isinstance(text, str) for text in texts):
        raise Malformed("A member of the receipt has another type than it must.")
    entry, commitments, salt = (note.decode_base64(str(text)) for text in texts[:3])
    return Receipt(index, entry, commitments, salt, str(texts[3]))


def check(receipt: Receipt, proof: str, token: str, pinned: NoteVerifier, successions: Sequence[str] = ()) -> int:
    """Checks that the log holds the record of a token. Fails closed.

    1. The proof's checkpoint is signed by the pinned key, or by one that it leads to.
    2. The receipt's entry is the leaf at the receipt's index in that checkpoint's tree.
    3. It is of an issued token, and the shown group, which it commits to, names this token by its digest.

    Args:
        receipt: what came with the token.
        proof: what the log gave for the index (`GET /log/receipt/{index}`).
        token: the access token.
        pinned: a key of the log, from elsewhere than the broker.
        successions: statements by which the log's keys followed each other.

    Returns:
        The size of the tree.

    Raises:
        ProofInvalid, Malformed: the text says what does not fit.
    """
    log_key = succession.key_for(tlog_proof.checkpoint_of(proof), pinned, successions)
    proved = tlog_proof.verify(proof, leaf_hash(receipt.entry), log_key)
    if proved.index != receipt.index:
        raise ProofInvalid("The proof is of another record than the receipt.")
    fields = record.parse_entry(receipt.entry)
    if fields.kind != KIND:
        raise ProofInvalid(f"The receipt's record is a {fields.kind}, not of an issued token.")
    record.verify_groups(fields.root, receipt.commitments, {GROUP: (receipt.salt, receipt.content.encode())})
    what = canonical_json.parse(receipt.content.encode())
    named = what.get("token") if isinstance(what, dict) else None
    digest = hashlib.sha256(token.encode()).hexdigest()
    if not isinstance(named, str) or not hmac.compare_digest(named.encode(), digest.encode()):
        raise ProofInvalid("The receipt's record is of another token.")
    return proved.size
