"""Compiling: what is refused before it can decide anything, and what a compiled set says of itself."""

from __future__ import annotations

import hashlib
import json

import cedarpy
import pytest

from broker.errors import PolicyInvalid
from broker.policy import engine
from broker.policy.source import MAX_CHARS, MAX_FILES, MAX_SCHEMA_CHARS
from tests.policy.world import compiled, shipped_files, shipped_set

SOUND = '@id("sound") permit (principal is Agent, action == Action::"call", resource);'


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "   \n// nothing\n",
        "entity Agent { owner: Strnig };",
        "entity Agent",
        "entity Agent;",
        "this is no schema",
        '{"": {"entityTypes": {}, "actions": {}}}',
        "entity A; action group;",
    ],
)
def test_a_vocabulary_that_checks_nothing_is_refused(schema: str) -> None:
    """A schema that is empty, invalid or without actions is refused loudly; cedarpy once dropped those."""
    with pytest.raises(PolicyInvalid, match=r"schema\.cedarschema"):
        engine.compile(schema, {"some.cedar": SOUND})


def test_a_vocabulary_has_no_namespaces() -> None:
    """A request names actions and types plainly, so a namespace is refused, beside plain actions too."""
    schema = "entity B; action stay appliesTo { principal: [B], resource: [B] };"
    more = "namespace N { entity A; action go appliesTo { principal: [A], resource: [A] }; }"
    engine.compile(schema, {})
    with pytest.raises(PolicyInvalid, match="namespace"):
        engine.compile(schema + more, {})


@pytest.mark.parametrize("passes", [True, False])
def test_a_validator_that_does_not_tell_right_from_wrong_is_found_out(
    passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling proves that validation runs: to pass everything, or nothing, is refused."""

    def validate(text: str, schema: cedarpy.Schema) -> cedarpy.ValidationResult:
        return cedarpy.ValidationResult({"validation_passed": passes, "errors": []})

    schema = cedarpy.Schema.from_str(shipped_files().schema)
    with pytest.raises(PolicyInvalid, match="unchecked"):
        engine.prove_validation(schema, "call", validate)
    engine.prove_validation(schema, "call", cedarpy.validate_policies)
    with monkeypatch.context() as patched:
        patched.setattr(cedarpy, "validate_policies", validate)
        with pytest.raises(PolicyInvalid, match=r"schema\.cedarschema"):
            compiled(SOUND)


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ('when { principal.celing.contains("x") }', "celing"),
        ("when { context.lifetime_s > 3 }", "lifetime_s"),
        ("when { principal.owner == 3 && principal.owner + 1 > 0 }", ""),
        ('when { principal.getTag("repository") == "x" }', ""),
        ('when { Unicorn::"x" == principal }', "Unicorn"),
        ("when { principal.owner }", ""),
    ],
)
def test_a_policy_that_does_not_fit_the_vocabulary_is_refused(policy: str, complaint: str) -> None:
    """Misspelt attributes, facts of other actions, and wrong types are refused with file, line and policy."""
    text = f'{SOUND}\n\n@id("wrong")\npermit (principal is Agent, action == Action::"call", resource)\n{policy};'
    with pytest.raises(PolicyInvalid) as refused:
        compiled(text)
    assert 'some.cedar, line 3, policy "wrong": ' in refused.value.detail
    assert complaint in refused.value.detail


@pytest.mark.parametrize("action", ["cal", "operate", "Call"])
def test_an_unknown_action_is_refused(action: str) -> None:
    """A policy on an action that no request can have is refused and not silently without effect."""
    with pytest.raises(PolicyInvalid, match="line 1"):
        compiled(f'@id("x") permit (principal, action == Action::"{action}", resource);')


def test_a_tag_needs_its_guard() -> None:
    """A rule that reads a claim without asking for it first is refused, for it would fail on other tokens."""
    with pytest.raises(PolicyInvalid, match="repository"):
        compiled(
            '@id("x") @agent("a") permit (principal is OidcEvidence, action == Action::"enrol", resource)'
            ' when { principal.getTag("repository") == "acme/etl" };'
        )


def test_every_problem_is_told_at_once() -> None:
    """A person who proposes a set learns of all its problems, each with its place."""
    with pytest.raises(PolicyInvalid) as refused:
        compiled(
            a=SOUND.replace("sound", "one").replace(";", " when { principal.a };"),
            b=SOUND + "\n" + SOUND.replace("sound", "two").replace(";", " when { principal.b };"),
        )
    detail = refused.value.detail
    assert 'a.cedar, line 1, policy "one"' in detail
    assert 'b.cedar, line 2, policy "two"' in detail


def test_an_id_stands_for_one_policy() -> None:
    """The same `@id` twice is refused, across files too, and both places are named."""
    with pytest.raises(PolicyInvalid, match=r'z\.cedar, line 2: .*"sound".* a\.cedar, line 1'):
        compiled(a=SOUND, z="\n" + SOUND)
    with pytest.raises(PolicyInvalid, match=r"some\.cedar, line 2"):
        compiled(SOUND, SOUND)


@pytest.mark.parametrize("note", ["", "@id", '@id("")', '@title("x")'])
def test_a_policy_without_an_id_is_refused(note: str) -> None:
    """A policy without a name could not be recorded as a reason."""
    with pytest.raises(PolicyInvalid, match=r"some\.cedar, line 2: every policy needs a name"):
        compiled(SOUND, f'{note} permit (principal is Agent, action == Action::"call", resource);')


@pytest.mark.parametrize(
    "text",
    [
        "permit (principal, action, resource) wen { true };",
        '@id("a") @id("b") permit (principal, action, resource);',
        '@id("a") permit (principal, action, resource)',
        '@id("a") permit (principal, action, resource);;',
        '@id("a") permit (principal, action, resource) when { "unclosed };',
        '@id("a") permit (principal, action, resource); /* no such comment */',
        "permit;",
    ],
)
def test_text_that_does_not_parse_is_refused_with_its_line(text: str) -> None:
    """A syntax error names the file and the line where the policy begins."""
    with pytest.raises(PolicyInvalid, match=r"some\.cedar, line 3"):
        compiled("// a comment; with a semicolon\n\n" + text)


@pytest.mark.parametrize(
    "slot", ["principal == ?principal, action, resource", "principal, action, resource in ?resource"]
)
def test_templates_are_refused(slot: str) -> None:
    """A template decides nothing until it is linked, so it would only look like a policy."""
    with pytest.raises(PolicyInvalid, match="template"):
        compiled(f'@id("t") permit ({slot});')


@pytest.mark.parametrize(
    "name",
    ["Some.cedar", "some.txt", "some", "../some.cedar", "a/b.cedar", ".cedar", "some.cedar\n", "sóme.cedar"],
)
def test_a_file_with_another_kind_of_name_is_refused(name: str) -> None:
    """File names are plain, so that they can be shown, stored and exported without thought."""
    with pytest.raises(PolicyInvalid, match="name policy files"):
        engine.compile(shipped_files().schema, {name: SOUND})


def test_sizes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that is too large is refused before it is parsed."""
    schema = shipped_files().schema
    with pytest.raises(PolicyInvalid, match="characters"):
        engine.compile(schema, {"some.cedar": " " * MAX_CHARS, "more.cedar": " "})
    with pytest.raises(PolicyInvalid, match="characters"):
        engine.compile(schema + " " * MAX_SCHEMA_CHARS, {})
    with pytest.raises(PolicyInvalid, match="policy files"):
        engine.compile(schema, {f"f{n}.cedar": "" for n in range(MAX_FILES + 1)})
    monkeypatch.setattr(engine, "MAX_POLICIES", 1)
    compiled(SOUND)
    with pytest.raises(PolicyInvalid, match="More than 1 policies"):
        compiled(SOUND, SOUND.replace("sound", "second"))


def test_the_hash_is_of_the_texts_in_canonical_form() -> None:
    """The set's hash can be computed by anybody: SHA-256 over the RFC 8785 form of schema and files."""
    files = {"b.cedar": SOUND, "a.cedar": "// nothing"}
    policies = engine.compile(shipped_files().schema, files)
    text = json.dumps(
        {"files": files, "schema": shipped_files().schema},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    assert policies.hash == hashlib.sha256(text.encode()).hexdigest()
    assert engine.compile(shipped_files().schema, dict(reversed(files.items()))).hash == policies.hash


def test_the_hash_changes_with_every_byte() -> None:
    """A changed comment, a renamed file and a changed vocabulary are other sets."""
    schema = shipped_files().schema
    hashes = {
        engine.compile(schema, {"a.cedar": SOUND}).hash,
        engine.compile(schema, {"a.cedar": SOUND + " "}).hash,
        engine.compile(schema, {"b.cedar": SOUND}).hash,
        engine.compile(schema + " ", {"a.cedar": SOUND}).hash,
    }
    assert len(hashes) == 4


def test_policies_are_described_with_their_place() -> None:
    """File, first line, effect, actions and annotations of each policy, in the order of files and text."""
    text = f'// a comment\n{SOUND}\n\n@id("no")\n@title("never")\n'
    text += 'forbid (principal, action in Action::"operate", resource);'
    first, second = compiled(text).policies
    assert (first.id, first.file, first.line, first.effect, first.action) == (
        "sound",
        "some.cedar",
        2,
        "permit",
        ("call",),
    )
    assert (second.id, second.line, second.effect) == ("no", 4, "forbid")
    assert second.action == ("approve", "contain", "erase", "propose", "read", "readGroup", "readTrail")
    assert second.annotations == {"id": "no", "title": "never"}


def test_a_set_cannot_be_changed() -> None:
    """What was compiled and hashed stays as it was, whatever becomes of the mapping it came from."""
    files = {"a.cedar": SOUND}
    policies = engine.compile(shipped_files().schema, files)
    files["a.cedar"] = ""
    assert policies.files["a.cedar"] == SOUND
    with pytest.raises(TypeError):
        policies.files["a.cedar"] = ""  # type: ignore[index]  # the very thing that must not work
    with pytest.raises(TypeError):
        shipped_set().policies[0].annotations["id"] = "x"  # type: ignore[index]  # nor may this
