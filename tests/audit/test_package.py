"""An evidence package: what the verifier in one file proves of it, and that nothing in it can be altered unnoticed."""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit import package as packages
from broker.audit import verifier
from broker.audit.disclosure import WHOLE
from broker.db.engine import execute, reading, writing
from broker.errors import Unavailable
from broker.formats import checkpoint, succession
from broker.formats.note import NoteSigner, encode_base64
from broker.formats.succession import Succession
from broker.policy import active
from tests.audit.packages import call, erase, fetched, live, signed_again, take_away, unpacked, verified
from tests.build import AGENT, MODEL, running
from tests.fakes import FakeClock

_DAY_S = 86_400
_SLICES = "entities.jsonl"


@dataclass(frozen=True)
class Made:
    """Packages of one broker: of everything, of one agent, and the log's key."""

    whole: Path
    of_agent: Path
    data: bytes
    key: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Packages that every test of the module looks at, and none changes."""
    folder = tmp_path_factory.mktemp("made")

    async def make() -> Made:
        (folder / "broker").mkdir()
        async with running(folder / "broker") as run:
            admin = await live(run)
            data = await fetched(admin)
            whole = unpacked(data, folder / "whole")
            of_agent = unpacked(await fetched(admin, agent=AGENT), folder / "agent")
            return Made(whole, of_agent, data, run.broker.log_key)

    return asyncio.run(make())


@pytest.fixture
def package(made: Made, tmp_path: Path) -> Path:
    """A package of everything, to be altered."""
    return Path(shutil.copytree(made.whole, tmp_path / "package"))


def test_a_package_is_proved_by_one_file_alone(made: Made) -> None:
    """In an isolated interpreter; it says of which log, what was asked for, and how many records it proved."""
    code, said = verified(made.whole, made.key)
    assert code == 0, said
    lines = (made.whole / "records.jsonl").read_text().splitlines()
    assert f"records     {len(lines)} of the entries 0 to {len(lines) - 1}, each proved" in said
    assert "signed by the key that you gave" in said
    assert re.search(r"gaps +none", said)
    assert "3 policy sets (0 not here)" in said
    assert said.endswith("PROVED\n")


def test_the_package_of_one_agent_is_proved(made: Made) -> None:
    """It holds that agent's records alone, and their running numbers show that none is left out."""
    code, said = verified(made.of_agent, made.key)
    assert code == 0, said
    records = [json.loads(line) for line in (made.of_agent / "records.jsonl").read_text().splitlines()]
    assert 0 < len(records) < len((made.whole / "records.jsonl").read_text().splitlines())
    assert f"asked for   {AGENT}," in said


def test_the_file_that_was_downloaded_is_proved_as_it_is(made: Made, tmp_path: Path) -> None:
    """A ZIP file needs no unpacking, and a key in a file is read from there."""
    (tmp_path / "package.zip").write_bytes(made.data)
    (tmp_path / "log.vkey").write_text(made.key + "\n")
    assert verified(tmp_path / "package.zip", str(tmp_path / "log.vkey"))[0] == 0


def test_the_verifier_that_the_package_brings_is_the_product_s(made: Made, tmp_path: Path) -> None:
    """Byte for byte, also as the source prints it; it runs where it lies, and names nothing of the broker to import."""
    assert (made.whole / "verify.py").read_bytes() == verifier.text()
    printed = subprocess.run([sys.executable, "-m", "broker.audit.verifier"], capture_output=True, check=True)
    assert printed.stdout == verifier.text()
    assert verified(made.whole, made.key, made.whole / "verify.py")[0] == 0
    assert not list(made.whole.rglob("__pycache__"))
    imported = set()
    for node in ast.walk(ast.parse(verifier.text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"cryptography"}


_ALONE = """
import runpy, sys
from importlib.abc import MetaPathFinder

class Nothing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        first = name.partition(".")[0]
        if first not in sys.stdlib_module_names and first not in ("cryptography", "cffi", "_cffi_backend", "pycparser"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Nothing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_new_user_needs_cryptography_and_nothing_else(made: Made, tmp_path: Path) -> None:
    """In an isolated interpreter, in a folder with the package alone, to which every other module is not there."""
    package = Path(shutil.copytree(made.whole, tmp_path / "evidence"))
    command = [sys.executable, "-I", "-c", _ALONE, "evidence/verify.py", "evidence", "--key", made.key]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("PROVED\n")
    broken = (package / "verify.py").read_bytes().replace(b"import base64\n", b"import base64\nimport orjson\n", 1)
    (package / "verify.py").write_bytes(broken)
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False)
    assert "orjson is not there" in done.stderr


def test_another_key_proves_nothing(made: Made) -> None:
    """Neither a stranger's key of the same name, nor a text that is none."""
    name = made.key.partition("+")[0]
    other = NoteSigner(name, Ed25519PrivateKey.generate()).vkey
    assert verified(made.whole, other)[0] == 1
    code, said = verified(made.whole, made.key[:-1] + "+")
    assert (code, "PROVED\n" in said.replace("NOT PROVED", "")) == (1, False)


def test_no_byte_of_a_file_can_be_altered(made: Made, package: Path) -> None:
    """In every kind of file: one bit at the beginning, in the middle and at the end; a file cut, gone, or added."""
    policies = sorted(package.glob("policies/*/*"))
    for file in [*sorted(p for p in package.iterdir() if p.is_file()), policies[0]]:
        good = file.read_bytes()
        for place in {0, len(good) // 2, len(good) - 1} if good else ():
            file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert verified(package, made.key)[0] == 1, f"{file.name}, byte {place}"
        file.write_bytes(good[:-1] or b"more")
        assert verified(package, made.key)[0] == 1, f"{file.name}, cut"
        file.unlink()
        assert verified(package, made.key)[0] == 1, f"{file.name}, gone"
        file.write_bytes(good)
    assert verified(package, made.key)[0] == 0
    (package / "more.html").write_text("added")
    code, said = verified(package, made.key)
    assert (code, "more.html is not a file of this package" in said) == (1, True)


Lines = Callable[[list[dict[str, object]]], object]


def _member(name: str, change: Callable[[str], str]) -> Lines:
    return lambda records: records[1].update({name: change(str(records[1][name]))})


def _flipped(text: str) -> str:
    """Base64 of other bytes of the same length."""
    return ("A" if text[0] != "A" else "B") + text[1:]


def _reworded(records: list[dict[str, object]]) -> None:
    groups = records[1]["groups"]
    assert isinstance(groups, dict)
    groups["request"]["content"] = groups["request"]["content"].replace('"id":"', '"id":"x')


def _resalted(records: list[dict[str, object]]) -> None:
    groups = records[1]["groups"]
    assert isinstance(groups, dict)
    groups["what"]["salt"] = _flipped(groups["what"]["salt"])


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (_member("entry", _flipped), "is not in the log at this place"),
        (_member("commitments", _flipped), "the commitments are not those of the entry"),
        (lambda records: records[1].update(index=2), "the log at this place"),
        (lambda records: records[1].update(proof=[]), "is too short"),
        (lambda records: records[1]["proof"].append(records[1]["proof"][0]), "is too long"),
        (_reworded, "the group request is not what the entry committed to"),
        (_resalted, "the group what is not what the entry committed to"),
        (lambda records: records.pop(1), "gap: the entries 1 to 1 are left out"),
        (lambda records: records.pop(), "gap: the entries"),
        (lambda records: records.insert(1, records[1]), "out of order"),
        (lambda records: records.reverse(), "out of order"),
    ],
)
def test_a_maker_who_signs_what_is_not_so_is_found_out(
    made: Made, package: Path, tmp_path: Path, alter: Lines, says: str
) -> None:
    """Records altered, left out or moved by whoever can sign the manifest: the checkpoint's root does not have them."""
    records = [json.loads(line) for line in (package / "records.jsonl").read_text().splitlines()]
    alter(records)
    (package / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    key = signed_again(package)
    code, said = verified(package, key)
    assert code == 1
    assert says in said


def test_policies_and_entities_are_those_that_the_records_name(made: Made, package: Path) -> None:
    """Whoever can sign the manifest still cannot put others in their place; those left out are counted."""
    policy = next(file for file in sorted(package.glob("policies/*/*.cedar")))
    policy.write_text(policy.read_text() + "\n// more")
    key = signed_again(package)
    assert "is not the one that its hash names" in verified(package, key)[1]
    shutil.rmtree(policy.parent)
    entities = (package / "entities.jsonl").read_text().splitlines(keepends=True)
    (package / "entities.jsonl").write_text("".join(entities[1:]))
    key = signed_again(package)
    code, said = verified(package, key)
    assert code == 0
    assert "(1 not here)" in said
    assert f"{len(entities) - 1} entity slices (1 not here)" in said
    (package / "entities.jsonl").write_text("".join(entities).replace("team-data", "team-none"))
    assert "is named by no record, or was altered" in verified(package, signed_again(package))[1]


@pytest.mark.parametrize("forged", [("checkpoint",), ("manifest.note",), ("checkpoint", "manifest.note")], ids=str)
def test_a_signature_that_the_key_did_not_make_is_none(made: Made, package: Path, forged: tuple[str, ...]) -> None:
    """Under the pinned key's name and id, and by another key: on the checkpoint, the manifest, and both."""
    good = {name: (package / name).read_bytes() for name in ("checkpoint", "manifest.note", "manifest.json")}
    signed_again(package)
    for name in ("checkpoint", "manifest.note"):
        text, _, line = (package / name).read_text().rpartition(" ")
        id = base64.b64decode(good["checkpoint"].decode().rpartition(" ")[2])[:4]
        (package / name).write_text(f"{text} {encode_base64(id + base64.b64decode(line)[4:])}\n")
        if name not in forged:
            (package / name).write_bytes(good[name])
    if "manifest.note" not in forged:
        (package / "manifest.json").write_bytes(good["manifest.json"])
    code, said = verified(package, made.key)
    assert code == 1
    assert "does not verify: the text was altered" in said


def test_the_manifest_of_another_package_is_none(made: Made, package: Path) -> None:
    """Signed by the same key, for the same tree: one that was reworded, and one that belongs to other files."""
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps({**manifest, "made_at_ms": 1}))
    code, said = verified(package, made.key)
    assert (code, "manifest.json is not the one that was signed" in said) == (1, True)
    for name in ("manifest.json", "manifest.note"):
        (package / name).write_bytes((made.of_agent / name).read_bytes())
    code, said = verified(package, made.key)
    assert (code, "records.jsonl was altered" in said) == (1, True)


def test_a_number_of_an_agent_that_is_left_out_is_found(made: Made, tmp_path: Path) -> None:
    """Whoever can sign the manifest cannot leave a record of one agent out between two others."""
    package = Path(shutil.copytree(made.of_agent, tmp_path / "package"))
    lines = (package / "records.jsonl").read_text().splitlines(keepends=True)
    (package / "records.jsonl").write_text("".join([lines[0], *lines[2:]]))
    number = json.loads(base64.b64decode(json.loads(lines[1])["entry"]))["seq"]
    code, said = verified(package, signed_again(package))
    assert (code, f"numbers from {number} are left out" in said) == (1, True)


def test_a_key_follows_only_by_a_statement_of_both(made: Made, package: Path) -> None:
    """One that the new key alone signed leads nowhere; one of both binds the tree of the handover."""
    old, new = (NoteSigner(made.key.partition("+")[0], Ed25519PrivateKey.generate()) for _ in range(2))
    head = checkpoint.parse_unverified((package / "checkpoint").read_text())
    said = Succession(head.origin, old.vkey, new.vkey, head.size, head.root)
    for statement, signer, problem in (
        (new.sign(said.to_text()), new, "not signed by the key"),
        (succession.sign(said, old, new), new, ""),
        (succession.sign(said, old, new), old, ""),
        (succession.sign(replace(said, root=bytes(32)), old, new), new, "two stories"),
        (succession.sign(replace(said, size=head.size - 1), old, new), old, "nor one that follows"),
        (succession.sign(replace(said, size=head.size + 1), old, new), new, "nor one that follows"),
    ):
        (package / "log-keys.json").write_text(json.dumps({"successions": [statement]}))
        signed_again(package, signer)
        code, told = verified(package, old.vkey)
        assert (code, problem in told) == (bool(problem), True), told


def test_what_the_holder_of_a_followed_key_can_still_sign_is_said(made: Made, package: Path) -> None:
    """Under the new key too, for a smaller tree: nothing in a package binds that one to the tree of the handover."""
    old, new = (NoteSigner(made.key.partition("+")[0], Ed25519PrivateKey.generate()) for _ in range(2))
    head = checkpoint.parse_unverified((package / "checkpoint").read_text())
    said = Succession(head.origin, old.vkey, new.vkey, head.size + 7, bytes(32))
    warning = f"not proved  when it was signed: another key followed this one at {head.size + 7} entries"
    for size, signer in ((head.size + 7, old), (head.size, new)):
        statement = succession.sign(replace(said, size=size, root=head.root), old, new)
        (package / "log-keys.json").write_text(json.dumps({"successions": [statement]}))
        signed_again(package, signer)
        code, told = verified(package, new.vkey)
        assert (code, warning in told) == (0, signer is old), told


async def test_a_package_is_proved_under_a_key_that_was_followed(tmp_path: Path) -> None:
    """The statements come with it: forwards from the first key, and under the new one as it is; not under a third."""
    async with running(tmp_path) as run:
        admin = await live(run)
        old = run.broker.log_key
        assert (await admin.post("/api/v1/keys/rotate", json={"log": True})).status_code == 200
        run.broker.tree.integrate()
        new = run.broker.log_key
        assert new != old
        package = unpacked(await fetched(admin), tmp_path / "package")
    code, said = await asyncio.to_thread(verified, package, old)
    assert (code, new in said) == (0, True), said
    assert (await asyncio.to_thread(verified, package, new))[0] == 0
    (package / "log-keys.json").write_text('{"successions": []}')
    assert (await asyncio.to_thread(verified, package, old))[0] == 1


async def test_what_was_erased_is_not_in_the_package_and_the_rest_is_proved(tmp_path: Path) -> None:
    """A group whose salt and content are gone counts as erased: the package brings the record that says so."""
    async with running(tmp_path) as run:
        admin = await live(run)
        before = unpacked(await fetched(admin), tmp_path / "before")
        run.whole_records = False  # no erasure of this kind reaches records of the day
        await erase(run.broker.audit, run.broker.engine, "for_whom")
        run.broker.tree.integrate()
        after = unpacked(await fetched(admin), tmp_path / "after")
        of_agent = unpacked(await fetched(admin, agent=AGENT), tmp_path / "agent")
        key = run.broker.log_key
    said = [await asyncio.to_thread(verified, package, key) for package in (before, after, of_agent)]
    assert [code for code, _ in said] == [0, 0, 0], said
    counts = [int(re.findall(r"not shown +0 groups withheld, (\d+) erased", text)[0]) for _, text in said]
    assert counts[0] == 0 < counts[2] < counts[1]
    assert "team-data" in (before / "records.jsonl").read_text()
    assert '"for_whom"' not in (after / "records.jsonl").read_text().rsplit("\n", 6)[0]
    assert [len((p / "erasures.jsonl").read_bytes().splitlines()) for p in (before, after, of_agent)] == [0, 1, 1]


async def test_a_group_that_was_taken_away_is_no_erased_one(tmp_path: Path) -> None:
    """Without a record that says so, the package is not proved, and the record and its groups are named."""
    async with running(tmp_path) as run:
        admin = await live(run)
        run.whole_records = False
        with writing(run.broker.engine) as connection:
            (index,) = take_away(connection, "decision", "ChangeActivated")[:1]
            take_away(connection, "what", "ChangeActivated")
        package, key = unpacked(await fetched(admin), tmp_path / "package"), run.broker.log_key
    code, said = await asyncio.to_thread(verified, package, key)
    assert code == 1
    assert f"record {index}: decision, what are missing, and no record of an erasure says so" in said


async def test_what_is_erased_meanwhile_ends_the_package_in_the_middle(tmp_path: Path) -> None:
    """No checkpoint of the package covers the record that says so; whoever asks again gets a whole one."""
    async with running(tmp_path) as run:
        admin = await live(run)
        run.whole_records = False
        await erase(run.broker.audit, run.broker.engine, "for_whom")
        with reading(run.broker.engine) as session:
            begun = packages.begin(session, run.broker.tree, packages.Scope(), "", WHOLE, now=run.clock.now())
        with pytest.raises(Unavailable, match="Records were erased while the package was written"):
            b"".join(packages.written(begun, run.broker.engine, run.broker.tree, active.texts))
        run.broker.tree.integrate()
        assert zipfile.ZipFile(BytesIO(await fetched(admin))).testzip() is None


def test_no_record_is_left_out_at_the_log_s_beginning(made: Made, tmp_path: Path) -> None:
    """An agent's package from the first entry on begins with its number 1; one without a record proves nothing."""
    package = Path(shutil.copytree(made.of_agent, tmp_path / "package"))
    lines = (package / "records.jsonl").read_text().splitlines(keepends=True)
    (package / "records.jsonl").write_text("".join(lines[1:]))
    code, said = verified(package, signed_again(package))
    assert (code, "numbers from 1 are left out" in said) == (1, True)
    (package / "records.jsonl").write_text("")
    (package / "entities.jsonl").write_text("")
    for each in package.glob("policies/*"):
        shutil.rmtree(each)
    code, said = verified(package, signed_again(package))
    assert (code, "0 records are here" in said) == (1, True)
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps({**manifest, "range": [3, 3]}))
    code, said = verified(package, signed_again(package))
    assert (code, "the range of the package is empty" in said) == (1, True)


async def test_a_record_whose_time_was_erased_is_in_the_package_of_its_day(tmp_path: Path) -> None:
    """Its time is kept to the day alone, so it cannot be told from one that was made since."""
    async with running(tmp_path) as run:
        admin = await live(run)
        run.whole_records = False
        with writing(run.broker.engine) as connection:
            take_away(connection, "request")
            at = float(execute(connection, "SELECT at FROM records WHERE idx = 3").scalar() or 0)
            day = at // _DAY_S * _DAY_S
            execute(connection, "UPDATE records SET at = ? WHERE idx = 3", (day,))
            execute(connection, "UPDATE records SET at = ? WHERE idx < 3", (day - 1,))
        package = unpacked(await fetched(admin, since_ms=int(at * 1000)), tmp_path / "package")
        assert json.loads((package / "manifest.json").read_text())["range"][0] == 3


async def test_the_package_of_an_agent_whose_name_was_erased_has_no_gap(tmp_path: Path) -> None:
    """Its pseudonym stays, so its records are found; what they said is not shown."""
    async with running(tmp_path, clock=FakeClock()) as run:
        admin = await live(run)
        more = """@id("erases") permit (principal == Operator::"admin", action == Action::"erase", resource);"""
        await run.apply({"policies": {"erase.cedar": more}}, admin)
        run.clock.advance(2 * _DAY_S)  # type: ignore[attr-defined]  # it is the one above
        what = {"agent": AGENT, "groups": ["who", "for_whom", "decision"], "why": "test"}
        before_ms = int((run.clock.now() - _DAY_S) * 1000)
        erased = await admin.post("/api/v1/audit/erase", json={**what, "before_ms": before_ms})
        assert erased.status_code == 200, erased.text
        run.broker.tree.integrate()
        package, key = unpacked(await fetched(admin, agent=AGENT), tmp_path / "package"), run.broker.log_key
    code, said = await asyncio.to_thread(verified, package, key)
    assert code == 0, said
    records = [json.loads(line) for line in (package / "records.jsonl").read_text().splitlines()]
    assert len(records) > 5
    assert not any({"who", "decision"} & each["groups"].keys() for each in records)
    assert (package / "entities.jsonl").read_bytes() == b""


async def test_no_entities_tell_what_was_erased_of_a_record(tmp_path: Path) -> None:
    """Though its decision is left and names them, and a newer record of the agent still keeps them."""
    async with running(tmp_path, clock=FakeClock()) as run:
        admin = await live(run)
        more = """@id("erases") permit (principal == Operator::"admin", action == Action::"erase", resource);"""
        await run.apply({"policies": {"erase.cedar": more}}, admin)
        until_ms = int(run.clock.now() * 1000) + 1
        run.clock.advance(2 * _DAY_S)  # type: ignore[attr-defined]  # it is the one above
        admin = await run.operator()
        await call(run, MODEL, 200)
        run.broker.tree.integrate()
        scope = {"agent": AGENT, "until_ms": until_ms}
        assert b"team-data" in (unpacked(await fetched(admin, **scope), tmp_path / "before") / _SLICES).read_bytes()
        what = {"agent": AGENT, "groups": ["who", "for_whom"], "why": "test", "before_ms": until_ms}
        assert (await admin.post("/api/v1/audit/erase", json=what)).status_code == 200
        run.broker.tree.integrate()
        package, key = unpacked(await fetched(admin, **scope), tmp_path / "package"), run.broker.log_key
        now = unpacked(await fetched(admin, agent=AGENT), tmp_path / "now")
    code, said = await asyncio.to_thread(verified, package, key)
    assert code == 0, said
    assert (package / _SLICES).read_bytes() == b""
    assert b"team-data" in (now / _SLICES).read_bytes()


class _Page(HTMLParser):
    """What a page needs that is not in it, and whether its tables tell their heads."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href") or name.startswith("on")]


def test_the_page_is_read_without_a_server(made: Made) -> None:
    """No script, nothing loaded from anywhere; a language, one heading, captions and heads; and what is in it."""
    text = (made.whole / "index.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.references == []
    assert "script" not in page.tags
    assert (page.tags.count("h1"), page.tags.count("main")) == (1, 1)
    assert page.tags.count("caption") == page.tags.count("table") > 3
    assert '<html lang="en">' in text
    for shown in ("CallAdmitted", "CallRefused", "TokenIssued", AGENT, "stand-in/stand-in-small"):
        assert shown in text


async def test_no_name_that_a_caller_chose_is_markup(tmp_path: Path) -> None:
    """A model's name with tags in it is shown as it is written."""
    async with running(tmp_path) as run:
        admin = await run.operator()
        await run.apply(run.world(), admin)
        agent = await run.agent()
        sent = {"model": "<script>alert(1)</script>", "messages": []}
        await agent.post("/openai/v1/chat/completions", json=sent)
        run.broker.tree.integrate()
        page = (unpacked(await fetched(admin), tmp_path / "package") / "index.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page


def test_no_content_of_a_call_is_in_a_package(made: Made) -> None:
    """The word that every call carried stands nowhere in it."""
    assert [p.name for p in made.whole.rglob("*") if p.is_file() and b"SECRET" in p.read_bytes()] == []


async def test_a_scope_without_records_is_no_package(tmp_path: Path) -> None:
    """404 before anything is sent, and an unknown parameter is refused; only who may read the trail gets one."""
    async with running(tmp_path) as run:
        admin = await run.operator()
        for scope in ({"agent": "nobody"}, {"since_ms": 2**52}, {"until_ms": 1}):
            assert (await admin.get("/api/v1/audit/package", params=scope)).status_code == 404
        assert (await admin.get("/api/v1/audit/package", params={"agnet": "x"})).status_code == 400
        client = await run.client()
        assert (await client.get("/api/v1/audit/package")).status_code == 401
