"""The page of commands and exit codes is the program's, the codes are the errors', and every screen fits."""

import re
import sys

import command_page
import pytest
from click import Group

from fedhealth import errors
from fedhealth.cli.json_option import commands_of
from fedhealth.cli.main import main

COMMANDS = dict(commands_of(command_page.PROGRAM))


def groups_of(group, path=()):
    yield path
    for name, command in group.commands.items():
        if isinstance(command, Group):
            yield from groups_of(command, (*path, name))


SCREENS = [*COMMANDS, *groups_of(command_page.PROGRAM)]


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedhealth", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().out


def test_the_page_is_the_programs():
    found = command_page.PAGE.read_text(encoding="utf-8")
    assert found == command_page.render(), "write it anew: python tests/cli/command_page.py"


def test_the_page_names_every_command_and_every_code():
    page = command_page.PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `fedhealth ([a-z -]+)` \|", page, re.MULTILINE)) == {" ".join(w) for w in COMMANDS}
    # From the tree of errors and the constants beside it, by name: nothing that can end the program is left out.
    codes = {value for name, value in vars(errors).items() if name.endswith("_EXIT_CODE")}
    codes |= {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}
    assert set(map(int, re.findall(r"^\| (\d+) \|", page, re.MULTILINE))) == codes | {0, 2}


def test_the_codes_are_what_they_always_were():
    """What scripts rely on; a change here breaks them."""
    found = {kind: code for code, kind, _ in command_page.exit_codes() if kind}
    assert found == {
        "UsageError": 2,
        "ConfigInvalid": 3,
        "DataUnusable": 4,
        "BudgetExhausted": 5,
        "ApprovalMissing": 6,
        "PolicyForbids": 6,
        "LedgerDamaged": 7,
        "LedgerBehind": 7,
        "LedgerForked": 7,
        "RunAltered": 7,
        "IdentityInvalid": 8,
        "LinkUnavailable": 9,
        "FederationFailed": 11,
        "Interrupted": 130,
    }
    ends = (errors.UNSAFE_TEST_SITE_EXIT_CODE, errors.AUDIT_FAILED_EXIT_CODE, errors.SIMULATION_EXIT_CODE)
    assert ends == (10, 12, 13)


@pytest.mark.parametrize("words", SCREENS, ids=" ".join)
def test_every_screen_of_help_fits_80_columns(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    code, said = run(monkeypatch, capsys, *words, "--help")
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80


def test_every_command_is_explained_in_one_line():
    assert {words for words, command in COMMANDS.items() if not command_page.sentence(command.help)} == set()


def test_the_program_says_its_version(monkeypatch, capsys):
    declared = re.search(r'^version = "(.+)"', (command_page.ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert run(monkeypatch, capsys, "--version") == (0, f"fedhealth {declared[1]}\n")
