"""The enrolment rule of the play and its cases, as an admin would write them."""

from __future__ import annotations

AGENT = "nightly-report"
SUBJECT = "job:acme/nightly-report"
ATTESTER = "stand-in-platform"
ENDPOINT, MESSAGES = "stand-in", "stand-in-messages"
"""The provider's two endpoints: one for each wire format."""
SMALL, LARGE = "stand-in-small", "stand-in-large"

POLICY_FILE, CASE_FILE = "nightly-report.cedar", "nightly-report.yaml"
EXACT = f'principal.subject == "{SUBJECT}"'
CARELESS = 'principal.subject like "job:acme/*"'
"""Looks like a harmless generalisation, and takes in every job of the company."""

STRANGER_CASE = "another job of the same company is nobody"


def policy(ceiling: tuple[str, ...], *, condition: str = EXACT) -> str:
    """The rule that names the agent, as a Cedar policy.

    Args:
        ceiling: the models of the stand-in provider that it may call at most.
        condition: what must be true of the platform's token.
    """
    return f"""\
@id("nightly-report")
@agent("{AGENT}")
@owner("team-data") @purpose("writes the nightly report")
@ceiling("{" ".join(entries(ceiling))}")
permit (
  principal is OidcEvidence,
  action == Action::"enrol",
  resource == Attester::"{ATTESTER}"
)
when {{ {condition} }};
"""


def cases(ceiling: tuple[str, ...]) -> str:
    """The examples that must come out as written before any policy set with the rule is activated."""
    return f"""\
entities:
  - {{type: Attester, id: {ATTESTER}, attrs: {{kind: oidc}}}}
  - {{type: OidcEvidence, id: report, attrs: {{issuer: "https://platform", subject: "{SUBJECT}"}}}}
  - {{type: OidcEvidence, id: other, attrs: {{issuer: "https://platform", subject: "job:acme/pull-request-17"}}}}
  - {{type: ListClaims, id: none}}
cases:
  - name: the nightly report's job is the agent {AGENT}
    request:
      principal: OidcEvidence::"report"
      action: enrol
      resource: Attester::"{ATTESTER}"
      context: {{lists: {{type: ListClaims, id: none}}}}
    expect: permit
    reasons: [nightly-report]
    enrols: {{agent: {AGENT}, owner: team-data, ceiling: [{", ".join(entries(ceiling))}]}}
  - name: {STRANGER_CASE}
    request:
      principal: OidcEvidence::"other"
      action: enrol
      resource: Attester::"{ATTESTER}"
      context: {{lists: {{type: ListClaims, id: none}}}}
    expect: deny
    reasons: []
"""


def full_name(model: str) -> str:
    """A model of the stand-in provider as ceilings and policies call it."""
    return f"{ENDPOINT}/{model}"


def entries(models: tuple[str, ...]) -> list[str]:
    """A ceiling: these models at one endpoint, and the small one at the other."""
    return [*(full_name(model) for model in models), f"{MESSAGES}/{SMALL}"]
