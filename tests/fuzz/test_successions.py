"""Successions of a log's keys: who holds those that were followed leads nobody away from the published line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.formats import checkpoint, succession
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from broker.formats.succession import Succession
from tests.formats.forge import ed25519
from tests.fuzz.mutations import damaged_text
from tests.fuzz.outcome import effort, taken

ORIGIN, ROOT = "broker.example/log", b"\x07" * 32
LINE = [NoteSigner(ORIGIN, ed25519(name)) for name in ("one", "two", "three", "four")]
THIEF = NoteSigner(ORIGIN, ed25519("thief"))
STOLEN = [*LINE[:-1], THIEF]
SIZES = (10, 20, 20)
TIMES = dict(zip((signer.vkey for signer in LINE), zip((0, *SIZES), (*SIZES, 2**62), strict=True), strict=True))


def _statement(old: NoteSigner, new: NoteSigner, size: int, signers: tuple[NoteSigner, NoteSigner]) -> str:
    return succession.sign(Succession(ORIGIN, old.vkey, new.vkey, size, ROOT), *signers)


PUBLISHED = [_statement(old, new, size, (old, new)) for old, new, size in zip(LINE, LINE[1:], SIZES, strict=False)]
ANY = st.sampled_from([*LINE, THIEF])
HELD = st.sampled_from(STOLEN)
FORGED = st.builds(_statement, ANY, ANY, st.sampled_from([0, 9, 10, 11, 20, 21, 2**62]), st.tuples(HELD, HELD))
NEAR = st.sampled_from(PUBLISHED).flatmap(damaged_text)
NUMBERS = st.sampled_from([0, 1, 9, 10, 11, 19, 20, 21, 1000, 2**62])


@effort(200)
@given(
    st.permutations(PUBLISHED),
    st.lists(FORGED | NEAR, max_size=2),
    ANY,
    st.lists(HELD, min_size=1, max_size=3),
    NUMBERS,
)
def test_followed_keys_lead_nobody_away(
    published: list[str], more: list[str], pinned: NoteSigner, signers: list[NoteSigner], size: int
) -> None:
    """Beside the published statements: a checkpoint of theirs counts for the trees of their time, or not at all."""
    signed = checkpoint.sign(Checkpoint(ORIGIN, size, ROOT), *signers)
    key = taken(lambda: succession.key_for(signed, NoteVerifier.parse(pinned.vkey), [*more, *published]))
    if key is None or pinned is THIEF:
        return
    least, most = TIMES[key.vkey]
    assert least <= size <= most
    assert key.vkey in [signer.vkey for signer in signers]
    assert checkpoint.open_signed(signed, key).size == size


@effort(100)
@given(NEAR)
def test_a_statement_is_what_both_signed(text: str) -> None:
    """Whatever happens to it, it says the same or nothing."""
    said = taken(lambda: succession.open_signed(text))
    assert said is None or said in [succession.open_signed(each) for each in PUBLISHED]


@effort(100)
@given(st.permutations(PUBLISHED), st.sampled_from(LINE), st.integers(0, 3), st.data())
def test_the_published_line_leads_from_any_key_to_any_other(
    published: list[str], pinned: NoteSigner, place: int, data: st.DataObject
) -> None:
    """Each key's own trees are verified by whoever pinned any of them."""
    signer = LINE[place]
    least, most = TIMES[signer.vkey]
    size = data.draw(st.integers(least, min(most, least + 50)))
    signed = checkpoint.sign(Checkpoint(ORIGIN, size, ROOT), signer)
    assert succession.key_for(signed, NoteVerifier.parse(pinned.vkey), published).vkey == signer.vkey
