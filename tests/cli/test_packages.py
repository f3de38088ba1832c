"""Evidence packages on the terminal: taken away, verified by their own file, and their decisions made again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from broker.audit.verifier.verify import Package
from broker.cli import package_files
from broker.cli.package_files import Slices, check_whole, unpack
from broker.errors import Malformed
from tests.audit.packages import erase, fetched, live, unpacked, verified
from tests.build import running
from tests.cli.running import BrokerProcess, Person


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with every kind of decision in it, under two policy sets."""
    folder = tmp_path_factory.mktemp("decided")

    async def make() -> Path:
        (folder / "broker").mkdir()
        async with running(folder / "broker") as run:
            return unpacked(await fetched(await live(run)), folder / "package")

    return asyncio.run(make())


def test_a_package_is_a_folder_that_its_own_file_proves(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Of a time, and nothing is overwritten."""
    admin.refused("apply", "-f", "-", input="agents: {packaged: {owner: 1}}\n")
    wait_until_covered(admin, broker)
    folder = tmp_path / "evidence"
    said = admin.ok("audit", "package", str(folder), "--since", "1d")
    assert f"python -I {folder / 'verify.py'} {folder} --key log.vkey" in said
    code, told = verified(folder, broker.log_key)
    assert code == 0, told
    assert "ChangeRefused" in (folder / "index.html").read_text()
    assert "exists already" in admin.refused("audit", "package", str(folder))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_package_may_stay_one_file(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Of one agent; a time without records makes none, and leaves nothing behind."""
    wait_until_covered(admin, broker)
    told = admin.json("audit", "package", str(tmp_path / "evidence"), "--agent", "operator:admin", "--zip")
    file = tmp_path / "evidence.zip"
    assert told == {"package": str(file)}
    assert verified(file, broker.log_key)[0] == 0
    assert "No record fits" in admin.refused("audit", "package", str(tmp_path / "none"), "--until", "1d")
    assert {path.name for path in tmp_path.iterdir()} == {"evidence.zip", "verify.py"}


def wait_until_covered(admin: Person, broker: BrokerProcess) -> None:
    """Proving a record waits until a checkpoint covers it."""
    newest = admin.json("audit", "search", "--limit", "1")["records"][0]["index"]
    admin.ok("audit", "prove", str(newest), "-o", str(broker.data_dir.parent / f"{newest}.json"))


def test_every_decision_of_a_package_is_made_again(stranger: Person, package: Path) -> None:
    """Enrolments, exchanges, calls and operators' acts, permitted and denied, before and after a change of policies."""
    records = [json.loads(line) for line in (package / "records.jsonl").read_text().splitlines()]
    decisions = [json.loads(each["groups"]["decision"]["content"] or "{}") for each in records]
    asked = [d for d in decisions if "action" in d]
    inner = [d[name] for d in decisions for name in ("enrolment", "operator") if name in d]
    actions = {(d.get("action", "enrol"), "deny" if d["limited_by"] else "permit") for d in (*asked, *inner)}
    assert actions > {("exchange", "permit"), ("exchange", "deny"), ("call", "permit"), ("call", "deny")}
    assert actions > {("enrol", "permit"), ("enrol", "deny"), ("propose", "permit")}
    assert len({d["set"] for d in asked}) == 3
    told = stranger.json("audit", "redecide", str(package))
    assert told["agrees"] == len(asked) + len(inner)
    assert (told["differs"], told["undecided"], told["agreed"]) == (0, 0, True)
    said = stranger.ok("audit", "redecide", str(package))
    assert re.search(rf"{len(asked) + len(inner)}  agrees", said)


def test_a_package_that_is_one_file_is_decided_too(stranger: Person, package: Path, tmp_path: Path) -> None:
    """As it was downloaded; a file that is none, or that would write elsewhere, is refused."""
    file = shutil.make_archive(str(tmp_path / "package"), "zip", package)
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(tmp_path / "plain.zip", "w") as plain:
        for name in archive.namelist():
            if not name.endswith("/"):
                plain.writestr(name, archive.read(name))
    assert stranger.json("audit", "redecide", str(tmp_path / "plain.zip"))["agreed"] is True
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as evil:
        evil.writestr("../outside", "x")
    assert "holds a file '../outside'" in stranger.refused("audit", "redecide", str(tmp_path / "evil.zip"))
    (tmp_path / "none.zip").write_text("none")
    assert "no whole ZIP file" in stranger.refused("audit", "redecide", str(tmp_path / "none.zip"))


def test_a_decision_that_does_not_follow_is_found(stranger: Person, package: Path, tmp_path: Path) -> None:
    """With its index, what was recorded, and what comes out; exit code 1."""
    folder = Path(shutil.copytree(package, tmp_path / "package"))
    lines = (folder / "records.jsonl").read_text().splitlines()
    (place,) = [
        n for n, line in enumerate(lines) if '\\"reason\\":\\"call_denied\\"' in line or "outside-ceiling" in line
    ][:1]
    record = json.loads(lines[place])
    group = record["groups"]["decision"]
    decision = json.loads(group["content"]) | {"outcome": "permit", "limited_by": "", "policies": ["calls"]}
    group["content"] = json.dumps(decision)
    lines[place] = json.dumps(record)
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    told = stranger.json("audit", "redecide", str(folder), exit_code=1)
    assert (told["differs"], told["agreed"]) == (1, False)
    assert told["differing"][0]["index"] == record["index"]
    shown = stranger("audit", "redecide", str(folder))
    assert shown.exit_code == 1
    assert f"Record {record['index']}, call: recorded permit by calls, decided again deny" in shown.stdout


def test_what_is_missing_is_no_agreement(stranger: Person, package: Path, tmp_path: Path) -> None:
    """Without entities, or without a set, nothing that needed them agrees."""
    whole = stranger.json("audit", "redecide", str(package))["agrees"]
    folder = Path(shutil.copytree(package, tmp_path / "package"))
    shutil.rmtree(sorted((folder / "policies").iterdir())[0])
    told = stranger.json("audit", "redecide", str(folder), exit_code=1)
    assert told["agrees"] + told["undecided"] == whole
    assert list(told["why_undecided"]) == ["its policy set is missing"]
    (folder / "entities.jsonl").write_text("")
    told = stranger.json("audit", "redecide", str(folder), exit_code=1)
    assert (told["agrees"], told["undecided"]) == (0, whole)


@pytest.mark.parametrize("said", ['{"outcome":"permit"}', ""])
def test_a_call_that_was_admitted_without_a_question_is_no_agreement(
    stranger: Person, package: Path, tmp_path: Path, said: str
) -> None:
    """A record of a kind that always tells one: it counts as what could not be decided, and never as nothing."""
    folder = Path(shutil.copytree(package, tmp_path / "package"))
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    admitted = next(each for each in records if b"CallAdmitted" in base64.b64decode(each["entry"]))
    admitted["groups"]["decision"]["content"] = said
    (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    told = stranger.json("audit", "redecide", str(folder), exit_code=1)
    assert (told["differs"], told["why_undecided"]) == (0, {"the record does not tell what was asked": 1})


@pytest.mark.parametrize("kind", ["CallAdmitted", "TokenIssued"])
def test_an_enrolment_lets_nobody_do_anything(stranger: Person, package: Path, tmp_path: Path, kind: str) -> None:
    """Its decision in the place of that of a call or a token is none of the record, though it can be made again."""
    folder = Path(shutil.copytree(package, tmp_path / "package"))
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    entries = [json.loads(base64.b64decode(each["entry"])) for each in records]
    found = {entry["kind"]: each for entry, each in zip(entries, records, strict=True)}
    found[kind]["groups"]["decision"] = found["AgentEnrolled"]["groups"]["decision"]
    (folder / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    told = stranger.json("audit", "redecide", str(folder), exit_code=1)
    assert told["differing"] == [
        {"index": found[kind]["index"], "action": "enrol", "why": "the record is of another action"}
    ]


def test_other_policies_under_the_same_name_decide_nothing(stranger: Person, package: Path, tmp_path: Path) -> None:
    """A set that has not the hash under which it lies is no set."""
    whole = stranger.json("audit", "redecide", str(package))["agrees"]
    folder = Path(shutil.copytree(package, tmp_path / "package"))
    for file in folder.glob("policies/*/models.cedar"):
        file.write_text(file.read_text() + "\n// more\n")
    told = stranger.json("audit", "redecide", str(folder), exit_code=1)
    assert (told["agrees"], told["undecided"]) == (0, whole)
    assert list(told["why_undecided"]) == ["its policy set is not the one that the hash names"]


async def test_what_was_erased_is_no_agreement(tmp_path: Path) -> None:
    """A decision group that is gone, and entities that are gone, are told as such; the package stays proved."""
    async with running(tmp_path) as run:
        admin = await live(run)
        run.whole_records = False  # no erasure of this kind reaches records of the day
        await erase(run.broker.audit, run.broker.engine, "decision", "CallAdmitted")
        run.broker.tree.integrate()
        package = unpacked(await fetched(admin), tmp_path / "package")
        key = run.broker.log_key
    assert (await asyncio.to_thread(verified, package, key))[0] == 0
    told = await asyncio.to_thread(Person(tmp_path / "home").json, "audit", "redecide", str(package), exit_code=1)
    assert told["why_undecided"] == {"the decision is withheld or erased": 2}
    assert (told["differs"], told["agreed"]) == (0, False)


@pytest.mark.parametrize("name", ["json.py", "../outside", "policies/x/a.cedar", "policies/" + "0" * 64 + "/json.py"])
def test_a_file_that_no_package_has_is_not_unpacked(tmp_path: Path, name: str) -> None:
    """Neither one that would lie outside, nor one that Python would take for its own beside verify.py."""
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        archive.writestr(name, "print('PROVED')")
    with pytest.raises(Malformed, match="is no evidence package"):
        unpack(tmp_path / "package.zip", tmp_path / "package")
    assert [path.name for path in tmp_path.iterdir()] == ["package.zip"]


def test_a_package_that_was_cut_is_none(package: Path, tmp_path: Path) -> None:
    """Wherever a download ended that looked whole: nothing is unpacked, and no file left; nor without its last file."""
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        for file in sorted(path for path in package.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(package))
    check_whole(whole)
    data, cut = whole.read_bytes(), tmp_path / "cut.zip"
    for place in (0, 1, 100, len(data) // 2, len(data) - 100, len(data) - 1):
        cut.write_bytes(data[:place])
        with pytest.raises(Malformed, match="no whole ZIP file: it was cut, or is no package"):
            check_whole(cut)
        with pytest.raises(Malformed, match="no whole ZIP file"):
            unpack(cut, tmp_path / "package")
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    cut.write_bytes(damaged)
    with pytest.raises(Malformed, match=r"is damaged|is no evidence package"):
        check_whole(cut)
    with zipfile.ZipFile(cut, "w") as archive:
        archive.write(package / "manifest.json", "manifest.json")
    with pytest.raises(Malformed, match="was cut before its end"):
        check_whole(cut)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.zip", "cut.zip"}


def test_no_damaged_byte_of_a_package_is_a_traceback(stranger: Person, package: Path, tmp_path: Path) -> None:
    """Wherever a bit of the ZIP file was flipped, it is whole still, or is said to be none in a sentence."""
    whole, damaged = tmp_path / "whole.zip", tmp_path / "damaged.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in package.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(package))
    data, said = whole.read_bytes(), set[str]()
    for place in range(0, len(data), 67):
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            check_whole(damaged)
        except Malformed as error:
            said.add(error.detail)
    assert any("while decompressing data" in each for each in said)  # zlib's own word
    damaged.write_bytes(data[:40] + bytes(200) + data[240:])
    assert "is no evidence package" in stranger.refused("audit", "redecide", str(damaged))


def test_slices_in_memory_are_bounded_by_their_bytes(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for, only so much of them is held; each is found again."""
    lines = (package / "entities.jsonl").read_bytes().splitlines()
    digests = [hashlib.sha256(line).hexdigest() for line in lines]
    most = max(map(len, lines))
    assert sum(map(len, lines)) > most
    monkeypatch.setattr(package_files, "_MAX_SLICES_BYTES", most)
    slices = Slices(Package(package))
    for digest in (*digests, *digests, digests[-1]):
        assert slices.read(digest) is not None
        assert 0 <= slices.held_bytes <= most
    assert slices.read(digests[-1]) is slices.read(digests[-1])
    assert slices.read("0" * 64) is None
