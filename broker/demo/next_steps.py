"""What the play says at its end: how to start a broker of one's own, and how to point it at a real provider."""

from __future__ import annotations

from broker.demo.rule import AGENT, LARGE, full_name
from broker.demo.stage import KEY_VARIABLE

BROKER_TOML = """\
[secrets.openai-key]
env = "OPENAI_API_KEY"
origins = ["https://api.openai.com"]
"""

WORLD_YAML = """\
attesters:
  github: {kind: oidc, issuer: "https://token.actions.githubusercontent.com", audience: "http://127.0.0.1:8420"}
endpoints:
  openai: {base_url: "https://api.openai.com/v1", secret: openai-key, models: [gpt-4o-mini]}
policies:
  reviewer.cedar: |
    @id("reviewer") @agent("reviewer") @owner("team-platform") @ceiling("openai/gpt-4o-mini")
    permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"github")
    when { principal.hasTag("repository") && principal.getTag("repository") == "acme/app" };
"""

AGENT_PY = """\
auth = BrokerAuth("http://127.0.0.1:8420", fetch_the_platforms_token)
openai.OpenAI(base_url="http://127.0.0.1:8420/openai/v1", api_key="unused", http_client=httpx2.Client(auth=auth))
"""


def text(command: str) -> str:
    """All of it.

    Args:
        command: how the `broker` command is called here.
    """
    return f"""\
Start your own broker, and sign in with the link that it prints:

    {command} serve
    {command} login 'http://127.0.0.1:8420/login#...'

Point it at a real provider: name the key, and the only address that may be sent it, in broker.toml; say whom you
trust, where calls go and which agent the evidence is in world.yaml, and apply it:

{_indented(BROKER_TOML)}
{_indented(WORLD_YAML)}
    {command} apply -f world.yaml

In the agent, with BrokerAuth from broker.client:

{_indented(AGENT_PY)}"""


def looking_around(command: str, folder: str) -> str:
    """How to start the broker of the play again, without its provider, and ask it as its auditor or admin.

    Args:
        command: how the `broker` command is called here.
        folder: where the play kept everything.
    """
    return f"""\
    {KEY_VARIABLE}=none {command} serve --config '{folder}/broker/broker.toml'
    BROKER_HOME='{folder}/auditor' {command} audit search
    BROKER_HOME='{folder}/admin' {command} policy explain {AGENT} {full_name(LARGE)}
"""


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
