"""The play: who is on stage, and the order of the acts."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.demo.admin import Admin
from broker.demo.agent import Agent
from broker.demo.auditor import Auditor
from broker.demo.stage import Stage
from broker.demo.thief import Thief
from broker.demo.transcript import Act, Transcript
from broker.errors import ConfigurationError

PROLOGUE = """\
An agent earns the right to call a model, others try to take it, an admin changes a policy, and an auditor checks it
all. The broker is a process of its own; all requests are real HTTP on 127.0.0.1. The platform and the provider are
stand-ins, and no model is behind the provider: it repeats what it is told.
"""


def acts(stage: Stage) -> tuple[Act, ...]:
    """Every act, in the order of the play."""
    admin, agent = Admin(stage), Agent(stage)
    thief, auditor = Thief(stage, agent), Auditor(stage, admin, agent)
    return (
        stage.start,
        admin.sign_in,
        admin.trust_platform,
        admin.connect_provider,
        admin.add_enrolment_rule,
        agent.exchange_evidence,
        agent.stream_a_call,
        agent.call_in_the_other_format,
        agent.call_outside_ceiling,
        admin.explain_refusal,
        thief.use_stolen_token,
        thief.replay_request,
        admin.break_a_case,
        admin.widen_ceiling,
        agent.call_again,
        auditor.find_decisions,
        auditor.verify_offline,
        auditor.notice_a_flipped_byte,
    )


def play(stage: Stage, transcript: Transcript) -> bool:
    """Performs the acts until one does not hold; True when all did. Whatever was started is stopped.

    Raises:
        ConfigurationError: one of the SDKs is missing; nothing was started.
    """
    for sdk in ("openai", "anthropic"):
        if importlib.util.find_spec(sdk) is None:
            raise ConfigurationError(f"The play calls a model through the {sdk} SDK: pip install 'broker[demo]'.")
    transcript.page.heading("The main job of the broker, from end to end")
    transcript.page.prose(PROLOGUE, indent="")
    with stage:
        for act in acts(stage):
            if not transcript.perform(act):
                transcript.tell_failure(stage.log_tail())
                return False
    return True


@contextmanager
def a_folder(keep: Path | None) -> Iterator[Path]:
    """Where the play keeps everything: a temporary folder that goes with it, or one to look around in afterwards.

    Raises:
        ConfigurationError: the folder to keep is in use.
    """
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="broker-demo-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        used = any(keep.iterdir())
    except OSError as error:
        raise ConfigurationError(f"{keep} cannot be used: {error}") from error
    if used:
        raise ConfigurationError(f"{keep} is not empty. Name a new folder.")
    yield keep.resolve()
