"""A broker with permits, denials and a policy change behind it, its packages, and the verifier as a process."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, Engine

from broker.audit import verifier
from broker.audit.erasure import ranges
from broker.audit.events import Kind
from broker.audit.log import AuditLog, Step
from broker.db.engine import execute, writing
from broker.formats.note import NoteSigner, encode_base64
from tests.audit.logs import event
from tests.build import MODEL, OTHER_MODEL, RULE, Running, token_request

CALLS = "/openai/v1/chat/completions"
WIDER = RULE.replace("stand-in/stand-in-small", "stand-in/*")


async def live(run: Running) -> httpx2.AsyncClient:
    """Lets every kind of decision happen: enrolments, exchanges and calls, permitted and denied, under two sets."""
    admin = await run.operator()
    await run.apply(run.world(), admin)
    await call(run, MODEL, 200)
    await call(run, OTHER_MODEL, 403)
    assert (await token_request(run, evidence=run.evidence("stranger"))).status_code == 400
    await run.apply({"policies": {"nightly.cedar": WIDER}}, admin)
    await call(run, OTHER_MODEL, 200)
    answer = await token_request(run, resource=f"{run.url}/api/v1")
    assert answer.json()["error"] == "invalid_target"
    run.broker.tree.integrate()
    return admin


async def call(run: Running, model: str, status: int) -> None:
    """One call with fresh tokens."""
    agent = await run.agent()
    answer = await agent.post(CALLS, json={"model": model, "messages": [{"role": "user", "content": "SECRET"}]})
    assert answer.status_code == status, answer.text


async def fetched(admin: httpx2.AsyncClient, **scope: Any) -> bytes:
    """A package as the API gives it."""
    answer = await admin.get("/api/v1/audit/package", params=scope)
    assert answer.status_code == 200, answer.text
    return answer.content


def unpacked(data: bytes, folder: Path) -> Path:
    """A package as a folder."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        archive.extractall(folder)
    return folder


def verified(package: Path, key: str, program: Path | None = None) -> tuple[int, str]:
    """What the verifier says, run alone: no environment, no search path, a copy of the file with nothing beside it."""
    if program is None:
        program = package.parent / "verify.py"
        program.write_bytes(verifier.text())
    done = subprocess.run(
        [sys.executable, "-I", str(program), str(package), "--key", key],
        capture_output=True,
        text=True,
        env={},
        cwd=package.parent,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def take_away(connection: Connection, name: str, kind: str = "") -> list[int]:
    """Takes a group of every record, or of those of a kind, out of the database; gives the records."""
    found = list(execute(connection, "SELECT idx, groups FROM records WHERE ? IN ('', kind) ORDER BY idx", (kind,)))
    for idx, stored in found:
        groups = json.loads(bytes(stored))
        groups.pop(name, None)
        execute(connection, "UPDATE records SET groups = ? WHERE idx = ?", (json.dumps(groups).encode(), idx))
    return [idx for idx, _ in found]


async def erase(log: AuditLog, engine: Engine, name: str, kind: str = "") -> None:
    """The same, as an erasure leaves it: on record."""
    with writing(engine) as connection:
        indices = take_away(connection, name, kind)
    remedy = {"groups": [name], "records": ranges(indices), "count": len(indices), "inputs": 0, "why": "test"}
    await log.record(Step((event("operator:admin", Kind.RECORDS_ERASED, remedy=remedy),)))


def signed_again(package: Path, signer: NoteSigner | None = None) -> str:
    """Lists and signs a package as its maker could, under a key of a log of the same tree; gives that key."""
    text = (package / "checkpoint").read_text().rpartition("\n\n")[0] + "\n"
    signer = signer or NoteSigner(text.split("\n")[0], Ed25519PrivateKey.generate())
    (package / "checkpoint").write_text(signer.sign(text))
    manifest = json.loads((package / "manifest.json").read_text())
    files = sorted(p for p in package.rglob("*") if p.is_file() and not p.name.startswith("manifest."))
    manifest["files"] = [
        {
            "path": p.relative_to(package).as_posix(),
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            "bytes": p.stat().st_size,
        }
        for p in files
    ]
    manifest["records"] = len((package / "records.jsonl").read_bytes().splitlines())
    return signed_as_it_is(package, json.dumps(manifest).encode(), signer)


def signed_as_it_is(package: Path, manifest: bytes, signer: NoteSigner) -> str:
    """Signs a manifest, whatever it holds; gives the key."""
    text = (package / "checkpoint").read_text()
    (package / "manifest.json").write_bytes(manifest)
    digest = encode_base64(hashlib.sha256(manifest).digest())
    said = "\n".join(["evidence-package v1", *text.split("\n")[:3], digest, ""])
    (package / "manifest.note").write_text(signer.sign(said))
    return signer.vkey
