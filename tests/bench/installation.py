"""A broker as somebody would run it: `broker serve` in a process of its own, on a disk, with what it must know.

The set-up goes through the same doors as an admin's: the one-time link, then the API. Nothing is switched off.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import BrokerAuth
from broker.clock import SystemClock
from broker.demo import commands
from broker.entropy import new_id, system_entropy
from broker.formats import dpop
from broker.settings import environment_for_child
from tests.bench import fleet, machine, provider
from tests.bench.fleet import Fleet
from tests.bench.processes import ROOT, Child, child, stop
from tests.build import free_port

_READY_TIMEOUT_S = 60.0
_POLL_S = 0.05
_KEY_VARIABLE = "BENCH_PROVIDER_KEY"
_AGENTS = f"cluster/{fleet.NAMESPACE}/"

RULES = f"""
@id("cluster-agents")
@agent_prefix("cluster/") @agent_claims("kubernetes.io/namespace,kubernetes.io/serviceaccount/name")
@owner("platform-team") @purpose("agents of the cluster") @ceiling("provider/{fleet.MODEL}")
permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"cluster")
when {{
  principal.hasTag("kubernetes.io/namespace") &&
  principal.getTag("kubernetes.io/namespace") == "{fleet.NAMESPACE}"
}};

@id("no-default-account")
@advice("Give the workload a service account of its own.")
forbid (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"cluster")
when {{
  principal.hasTag("kubernetes.io/serviceaccount/name") &&
  principal.getTag("kubernetes.io/serviceaccount/name") == "default"
}};

@id("short-tokens")
@advice("Ask for a token of at most 600 seconds.")
forbid (principal is Agent, action == Action::"exchange", resource)
when {{ context.lifetime_s > 600 }};

@id("provider-needs-proof")
@advice("Call with a DPoP-bound token.")
forbid (principal is Agent, action == Action::"call", resource in Endpoint::"provider")
unless {{ context.confirmation == "dpop" }};
"""
"""What an installation adds to the ten shipped policies."""


class CountsDiffer(Exception):
    """The log does not hold what was answered: the run is worth nothing."""


class Installation:
    """A broker that answers, with its provider and its fleet.

    Attributes:
        port, pid: the broker's.
        fleet: who asks it.
        provider: the stand-in's process, `provider_port` where it listens.
        answered: how many exchanges and calls succeeded so far; whoever drives counts here.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[str], url: str, provider: Child, port: int) -> None:
        self._folder = folder
        self._process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.pid = process.pid
        self.fleet = Fleet(url)
        self.provider = provider
        self.provider_port = port
        self.answered: Counter[str] = Counter()

    def set_up(self, link: str) -> None:
        """Signs the first admin in, and brings in the attester, the endpoint and the rules."""
        key = ec.generate_private_key(ec.SECP256R1())
        url = f"{self.url}/login"
        proof = dpop.prove(key, method="POST", url=url, now=SystemClock().now(), jti=new_id(system_entropy))
        with httpx2.Client(trust_env=False, timeout=30) as client:
            answer = client.post(url, json={"code": link.partition("#")[2]}, headers={"DPoP": proof})
        answer.raise_for_status()
        auth = BrokerAuth(self.url, client_id=answer.json()["client_id"], key=key, audience=f"{self.url}/api/v1")
        manifest = {
            "attesters": {
                "cluster": {
                    "kind": "oidc",
                    "issuer": fleet.ISSUER,
                    "audience": self.url,
                    "algorithms": ["ES256"],
                    "jwks": self.fleet.jwks,
                }
            },
            "endpoints": {
                "provider": {
                    "base_url": f"http://127.0.0.1:{self.provider_port}/v1",
                    "secret": "provider",
                    "models": [fleet.MODEL],
                }
            },
            "policies": {"installation.cedar": RULES},
        }
        with httpx2.Client(base_url=self.url, auth=auth, trust_env=False, timeout=30) as client:
            applied = client.post("/api/v1/changes", json=manifest)
            if applied.status_code != 200:
                raise RuntimeError(f"the broker refused the installation: {applied.text}")

    def stop_and_count(self) -> None:
        """Stops the broker and compares its log with what was answered.

        Raises:
            CountsDiffer: a record more or less than answers, or one of a refusal.
        """
        stop(self._process)
        if self._process.returncode != 0:
            raise RuntimeError(f"the broker ended with exit code {self._process.returncode}: {self.log_tail()}")
        with sqlite3.connect(f"file:{self._folder / 'data' / 'broker.db'}?mode=ro", uri=True) as database:
            rows = database.execute(
                "SELECT kind, count(*) FROM records WHERE agent LIKE ? OR kind = 'RefusalsCounted' GROUP BY kind",
                (f"{_AGENTS}%",),
            ).fetchall()
        database.close()
        exchanges, calls = self.answered["exchange"], self.answered["call"]
        expected = {"TokenIssued": exchanges, "CallAdmitted": calls, "CallCompleted": calls}
        found = {str(kind): int(number) for kind, number in rows if kind != "AgentEnrolled"}
        if found != {kind: number for kind, number in expected.items() if number}:
            raise CountsDiffer(f"answered {dict(self.answered)}, but the log holds {found}")

    def log_tail(self) -> str:
        """The end of what the broker logged."""
        return (self._folder / "broker.log").read_text("utf-8")[-2000:]


def token_of(answer: bytes) -> str:
    """The access token in a whole answer of the token endpoint."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["access_token"])


@contextmanager
def installed(samples: Path | None = None, *, more: str = "") -> Iterator[Installation]:
    """Runs a broker in a temporary folder on a disk; the folder is removed at the end.

    Args:
        samples: when given, the broker runs under `tests.bench.sampled`, which writes there.
        more: further sections of its configuration.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".bench-", dir=machine.disk_folder())))
        stand_in = stack.enter_context(child("provider"))
        provider_port = int(stand_in.told()["port"])
        config = folder / "broker.toml"
        config.write_text(
            f"""\
[server]
port = {free_port()}
[storage]
data_dir = '{folder / "data"}'
[outgoing]
allow = ["127.0.0.1:{provider_port}"]
[secrets.provider]
env = "{_KEY_VARIABLE}"
origins = ["http://127.0.0.1:{provider_port}"]
{more}
""",
            "utf-8",
        )
        greeting = folder / "greeting.json"
        out = stack.enter_context(greeting.open("w", encoding="utf-8"))
        log = stack.enter_context((folder / "broker.log").open("w", encoding="utf-8"))
        variables = {_KEY_VARIABLE: provider.KEY}
        if samples is None:
            process = commands.serve(config, out=out, log=log, **variables)
        else:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.sampled", str(config), str(samples)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=environment_for_child(**variables),
                text=True,
            )
        stack.callback(stop, process)
        told = _greeting(process, greeting, folder / "broker.log")
        installation = Installation(folder, process, told["issuer"], stand_in, provider_port)
        installation.set_up(told["sign_in_link"])
        yield installation


def _greeting(process: subprocess.Popen[str], greeting: Path, log: Path) -> dict[str, str]:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not (text := greeting.read_text("utf-8")).endswith("\n"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the broker did not start: {log.read_text('utf-8')[-2000:]}")
        time.sleep(_POLL_S)
    found: dict[str, str] = json.loads(text)
    return found
