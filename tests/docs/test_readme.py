"""The README's first real use, run as it stands: only the addresses are exchanged for those of the stand-ins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from broker.clock import SystemClock
from broker.demo.platform import StandInPlatform
from broker.demo.provider import MODELS, StandInProvider
from broker.demo.server import in_thread
from broker.entropy import system_entropy
from tests.build import free_port
from tests.cli.running import PROGRAM, environment
from tests.docs.document import Document

README = Document.read("README.md")


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return [block.text for block in README.blocks(language)]


def test_the_first_real_use_works_as_written(tmp_path: Path) -> None:
    """Whoever follows the README with an issuer and a provider of their own gets an answer, a trail and a proof."""
    platform = StandInPlatform(clock=SystemClock(), entropy=system_entropy)
    provider = StandInProvider(clock=SystemClock(), entropy=system_entropy)
    with in_thread(platform, provider):
        port = free_port()
        url = f"http://127.0.0.1:{port}"

        def adapted(text: str) -> str:
            for written, here in (
                ("https://token.actions.githubusercontent.com", platform.issuer),
                ("https://api.openai.com", provider.origin),
                ("https://api.anthropic.com", provider.origin),
                ("http://127.0.0.1:8420", url),
                ("[RS256]", "[ES256]"),
                ("gpt-4o-mini", MODELS[0]),
                ("claude-haiku-4-5", MODELS[1]),
                ("/var/run/secrets/broker/token", str(tmp_path / "token")),
            ):
                text = text.replace(written, here)
            return text

        def command(line: str) -> str:
            program, *arguments = line.split()
            assert program == "broker"
            done = subprocess.run(
                [PROGRAM, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            return done.stdout

        allow = f'[outgoing]\nallow = ["{platform.origin[7:]}", "{provider.origin[7:]}"]\n'
        secrets = adapted("\n".join(blocks("toml")))
        (tmp_path / "broker.toml").write_text(f"{secrets}\n{allow}[server]\nport = {port}\n")
        world, more = (yaml.safe_load(adapted(block)) for block in blocks("yaml"))
        world["endpoints"].update(more["endpoints"])
        (tmp_path / "world.yaml").write_text(yaml.safe_dump(world))
        (tmp_path / "token").write_text(
            platform.identity_token("repo:acme/app", url, {"repository": "acme/app"}, lifetime_s=600)
        )
        env = {**environment(tmp_path / "home"), "OPENAI_API_KEY": provider.key, "ANTHROPIC_API_KEY": provider.key}
        _, serve_and_login, apply, audit = blocks("sh")
        assert "broker serve" in serve_and_login
        with subprocess.Popen(
            [PROGRAM, "serve", "--json"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as serving:
            try:
                assert serving.stdout is not None
                ready = json.loads(serving.stdout.readline())
                command(f"broker login {ready['sign_in_link']}")
                for line in apply.splitlines():
                    command(line)
                agent = subprocess.run(
                    [sys.executable, "-c", adapted("\n".join(blocks("python")))],
                    check=False,
                    env=env,
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                assert [line.strip() for line in agent.stdout.splitlines()] == ["Hello", "Hello Claude"], agent.stderr
                for line in audit.splitlines():
                    program, _, target = line.partition(" > ")
                    printed = command(program)
                    if target:
                        (tmp_path / target).write_text(printed)
                    assert printed
            finally:
                serving.terminate()
                serving.wait(timeout=30)
