"""What the documents tell a person to type exists: every `fedhealth` command, its options, and every `make` target."""

import re
import sys
from pathlib import Path

import pytest
import typer.main
from click import Group

from fedhealth.cli.commands import app
from fedhealth.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "docs/commands.md",
    "docs/data.md",
    "docs/protocol.md",
    "docs/policy.md",
    "docs/first-study.md",
    "docs/engines.md",
    "docs/upgrading-flower.md",
    "deploy/README.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
)
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:^|[\s`(])(?:\.venv/bin/)?fedhealth((?: +[a-z][a-z-]*){1,3})([^#\n]*)")
ROOT_COMMAND = typer.main.get_command(app)


def verbs_of(group=ROOT_COMMAND, path=()):
    """Yield every command of the program as words, with the click command."""
    for name, command in group.commands.items():
        if isinstance(command, Group):
            yield from verbs_of(command, (*path, name))
        else:
            yield (*path, name), command


VERBS = dict(verbs_of())


def code_in(text):
    """Return the lines of a document's fenced blocks and its pieces of code within sentences."""
    fenced = [line for block in FENCE.findall(text) for line in block.splitlines()]
    return fenced + CODE.findall(FENCE.sub("", text))


def commands_in(lines):
    """Return (command, rest) of every `fedhealth ...` in lines of code; an unknown word is kept, to be found out."""
    found = []
    for line in lines:
        for named, rest in COMMAND.findall(line):
            words, group = named.split(), ROOT_COMMAND
            for count, word in enumerate(words, 1):
                if not isinstance(group := group.commands.get(word), Group):
                    words = words[:count]  # the command, or the first word that is unknown
                    break
            found.append((tuple(words), rest))
    return found


def targets_in(lines):
    return {target for line in lines for target in re.findall(r"^make ([a-z-]+)", line.strip())}


def code_of(document):
    return code_in((ROOT / document).read_text(encoding="utf-8"))


MAKEFILE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_of_a_document_exists(document):
    assert targets_in(code_of(document)) <= MAKEFILE_TARGETS


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_exists_with_its_options(document):
    for words, rest in commands_in(code_of(document)):
        assert words in VERBS, f"{document} names `fedhealth {' '.join(words)}`"
        known = {option for parameter in VERBS[words].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known | {"--help"}, f"{document}: {words}"


def test_the_readme_has_the_two_commands_that_matter_and_names_every_verb_of_a_site():
    lines = code_of("README.md")
    assert {"demo", "test"} <= targets_in(lines)
    named = {words for words, _ in commands_in(lines)}
    assert {("audit", "verify"), ("coordinator", "run")} <= named
    assert {words for words in VERBS if words[0] == "site"} <= named


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_command_explains_itself_with_an_example_that_parses(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["fedhealth", *words, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    example = re.search(r"Example: fedhealth (.+)", said)
    assert example, said
    arguments = example[1].split()
    assert tuple(arguments[: len(words)]) == words
    VERBS[words].make_context("fedhealth", arguments[len(words) :])  # raises where it does not parse


def messages():
    """Return every `fedhealth ...` that the program itself tells a person to type."""
    found = {}
    for path in sorted((ROOT / "fedhealth").rglob("*.py")):
        for words, _ in commands_in(
            re.findall(r"fedhealth (?:demo|site|coordinator|audit)\b[^\"'`\n]*", path.read_text())
        ):
            found.setdefault(words, str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(("words", "where"), messages().items(), ids=str)
def test_what_a_message_tells_a_person_to_run_exists(words, where):
    assert any(known[: len(words)] == words for known in VERBS), f"{where}: fedhealth {' '.join(words)}"


def test_a_wrong_command_in_a_document_would_be_found():
    text = "Run `fedhealth site stats` or\n\n```sh\nmake demmo\n.venv/bin/fedhealth demo --fast\n```\n"
    lines = code_in(text)
    assert targets_in(lines) == {"demmo"}
    assert {words for words, _ in commands_in(lines)} == {("site", "stats"), ("demo",)}
    assert ("site", "stats") not in VERBS
