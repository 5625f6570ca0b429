"""The page `docs/commands.md`, made of the program itself; run this file to write it anew."""

import ast
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import typer.main

from fedhealth import errors
from fedhealth.cli.commands import app
from fedhealth.cli.json_option import commands_of
from fedhealth.cli.output import USAGE_EXIT_CODE

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "commands.md"
PROGRAM = typer.main.get_command(app)

TEXT = """# Commands

`fedhealth NOUN VERB --help` explains a command and ends with an example; `fedhealth --version` says which program this
is.

## For scripts

Every command takes `--json`. It then prints one JSON document on standard output and no other text. Commands that run
on print one JSON object a line instead, for each thing that happens:
{streams}.

With `--json` an error is one line of JSON on standard error, beside which a log may write lines of its own:

```json
{{"error": {{"what": "...", "got": "...", "wanted": "...", "next_step": "..."}}, "code": 3, "kind": "ConfigInvalid"}}
```

`code` is the exit code and `kind` the name of the error: one of those below, or a finer one with the same code. A part
of which there is nothing to say is empty. What nobody may overlook although the command did its work, such as the
ledger of a test site, is a line `{{"warning": "..."}}` there. A command that judges (`site data check`, `study check`,
`site preflight`, `audit ...`) prints its document also where it ends with another code than 0.

With `--json` nobody is asked anything: a command that would ask wants the option that answers, such as `--yes`, and a
passphrase or a patient's id on standard input.

## Exit codes

They never change their meaning.

| code | kind | what it says |
|---|---|---|
{codes}

## Completion

`fedhealth --install-completion` teaches the shell that runs it (bash, zsh, fish) to complete commands and options, and
what this machine knows by name: offered and approved studies by their digests, signed studies in the folder, sites that
joined, researchers of the policy. Files alone are read for it: nothing goes over the network, and no patient is ever
offered. `fedhealth --show-completion` prints the script.

## All commands

{commands}
"""

STREAMS = [
    ("coordinator", "run"),
    ("coordinator", "serve"),
    ("site", "gate"),
    ("site", "node"),
    ("site", "start"),
    ("study", "watch"),
]


def sentence(text):
    """Return the first paragraph of a text on one line, without its full stop."""
    return " ".join(text.strip().split("\n\n")[0].split()).removesuffix(".")


def documented_constants(path):
    """Yield each constant of a module that a string explains, with its value and that string."""
    body = ast.parse(path.read_text()).body
    for constant, text in pairwise(body):
        if isinstance(constant, ast.Assign) and isinstance(text, ast.Expr):
            yield constant.targets[0].id, ast.literal_eval(constant.value), ast.literal_eval(text.value)


def exit_codes():
    """Return the rows of the table: code, kinds, what they say."""
    rows = defaultdict(list)
    rows[0].append(("", "done"))
    rows[1].append(("", "a defect, with a traceback; please report it"))
    rows[USAGE_EXIT_CODE].append(("UsageError", "the command line is wrong, or a question would have to be asked"))
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.FedHealthError) and kind is not errors.FedHealthError:
            rows[kind.exit_code].append((kind.__name__, sentence(kind.__doc__)))
    for name, code, text in documented_constants(Path(errors.__file__)):
        if name.endswith("_EXIT_CODE"):
            rows[code].append(("Interrupted" if code == errors.INTERRUPTED_EXIT_CODE else "", sentence(text)))
    return [(code, kind, text) for code in sorted(rows) for kind, text in rows[code]]


def render():
    """Return the page."""
    nouns = defaultdict(list)
    for words, command in commands_of(PROGRAM):
        nouns[words[0]].append(f"| `fedhealth {' '.join(words)}` | {sentence(command.help)} |")
    tables = []
    for noun, rows in nouns.items():
        about = PROGRAM.commands[noun].help if len(rows) > 1 else ""
        heading = f"### {noun}\n\n" + (f"{about}\n\n" if about else "")
        tables.append(heading + "\n".join(["| command | what it does |", "|---|---|", *rows]))
    codes = (f"| {code} | {f'`{kind}`' if kind else ''} | {text} |" for code, kind, text in exit_codes())
    streams = ", ".join(f"`{' '.join(words)}`" for words in STREAMS)
    return TEXT.format(codes="\n".join(codes), commands="\n\n".join(tables), streams=streams)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
