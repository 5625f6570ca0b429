"""What a command says: sentences for a person or, with `--json`, one JSON document for a program.

A command says a thing once, `say("paused", paused=True)`: a person reads the text, a program gets the fields of all
that was said, as one document on standard output when the command is done. A command that runs on says events, each one
JSON object on a line, at once. With `--json` an error is one line of JSON on standard error, and nobody is asked
anything.

One command runs in a process; what it has said so far is kept here. Leaves to others: the option itself, and the end of
a command, where its document is due (`fedhealth.cli.json_option`).
"""

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
import typer

from fedhealth.errors import INTERRUPTED_EXIT_CODE, FedHealthError

if TYPE_CHECKING:
    from rich.console import Console

USAGE_EXIT_CODE = click.UsageError.exit_code
"""The command line itself is wrong: an unknown option, a missing argument, or a question under `--json`."""


@dataclass
class _Said:
    as_json: bool
    fields: dict[str, Any] = field(default_factory=dict)
    document: list[Any] | None = None
    """The answer of a command whose document is a list."""
    events: bool = False
    """The command says events, so that there is no document."""


_said = _Said(as_json=False)


def begin(arguments: Sequence[str]) -> None:
    """Forget what was said. Until the arguments are parsed, `--json` anywhere among them counts as given."""
    global _said  # noqa: PLW0603 - one command a process
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    _said = _Said(as_json="--json" in options)


def choose(as_json: bool) -> None:
    """Take from the parsed arguments whether JSON is wanted."""
    _said.as_json = as_json


def wants_json() -> bool:
    """Say whether the answer is for a program."""
    return _said.as_json


def say(text: str = "", /, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
    """Say something: the text to a person, the fields to a program."""
    _say(text, fields, aside=False)


def say_lines(lines: Iterable[str]) -> None:
    """Say lines to a person."""
    for line in lines:
        say(line)


def answer(document: Mapping[str, Any] | list[Any]) -> None:
    """Say fields to a program, all of them at once; or a list, in their place."""
    if isinstance(document, list):
        _said.document = document
    else:
        _said.fields.update(document)


def remark(text: str = "", /, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
    """As `say`, on standard error: what a person who keeps the output wants to know beside it."""
    _say(text, fields, aside=True)


def warn(text: str) -> None:
    """Say on standard error what nobody may overlook, a person in words and a program as one line of JSON."""
    text = json.dumps({"warning": text}) if _said.as_json else text
    typer.echo(fitted(text) if sys.stderr.isatty() and not _said.as_json else text, err=True)


def _say(text: str, fields: dict[str, Any], *, aside: bool) -> None:
    _said.fields.update(fields)
    if text and not _said.as_json:
        stream = sys.stderr if aside else sys.stdout
        typer.echo(fitted(text) if stream.isatty() else text, err=aside)


def fitted(text: str) -> str:
    """Return a text whose lines fit the terminal: broken between words only, what follows set in under its line."""
    columns = shutil.get_terminal_size().columns
    lines: list[str] = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        fits = len(line) <= columns
        lines += (
            [line]
            if fits
            else textwrap.wrap(
                line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, tabsize=1
            )
        )
    return "\n".join(lines)


def printable(text: str) -> str:
    """Return text that a terminal shows and does not obey, whatever a file or a header holds."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def say_event(event: Mapping[str, Any]) -> None:
    """Say that something happened: one JSON object on a line of its own, at once, for a person and a program alike."""
    _said.events = True
    sys.stdout.write(json.dumps(_plain(event)) + "\n")
    sys.stdout.flush()


def say_step(text: str, event: Mapping[str, Any]) -> None:
    """Say that something happened: the text, if there is one, to a person, the event to a program as `say_event`."""
    if _said.as_json:
        say_event(event)
    else:
        say(text)


def finish() -> None:
    """Write the document of a command that ended without an error."""
    if _said.as_json and not _said.events:
        document = _said.fields if _said.document is None else _said.document
        typer.echo(json.dumps(_plain(document), indent=2))


def console() -> "Console":
    """Return where a person reads tables and progress; silent where JSON is wanted."""
    from rich.console import Console

    return Console(quiet=_said.as_json)


@contextmanager
def working(at: str) -> Iterator[None]:
    """Show a person at a terminal that something takes its time, such as reading images."""
    page = console()
    if not page.is_terminal:
        yield
        return
    with page.status(at):
        yield


def agreed(question: str, instead: str = "--yes") -> bool:
    """Ask a person to agree.

    Args:
        question: to be answered yes or no.
        instead: the option that agrees in advance.

    Raises:
        click.UsageError: JSON is wanted, so nobody is asked.
    """
    _refuse_to_ask(question, f"Give {instead}.")
    return typer.confirm(question)


def ask(question: str, instead: str, default: str | None = None) -> str:
    """Ask a person for a word; arguments and errors as `agreed`, and the answer that Enter gives."""
    _refuse_to_ask(question, f"Give {instead}.")
    return str(typer.prompt(question, default=default, show_default=bool(default)))


def passphrase(*, twice: bool) -> bytes | None:
    """Ask for a passphrase, or with `--json` take the first line of standard input for it; None if it is empty.

    Args:
        twice: ask a person to repeat a new one.

    Raises:
        click.UsageError: JSON is wanted and standard input is a terminal.
    """
    if not _said.as_json:
        given = str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=twice))
    else:
        if sys.stdin.isatty():
            _refuse_to_ask("Passphrase", "Give it on standard input.")
        given = sys.stdin.readline().rstrip("\n")
    return given.encode() or None


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value as JSON has it: an infinite or undefined number is null, a path or a time its text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "model_dump"):  # a pydantic model, told without loading pydantic
        return _plain(value.model_dump(mode="json"))
    return str(value)


def _refuse_to_ask(question: str, next_step: str) -> None:
    if _said.as_json:
        raise click.UsageError(f"with --json nobody is asked '{question}' {next_step}")


def complain(error: FedHealthError) -> int:
    """Say what went wrong; return the exit code."""
    if _said.as_json:
        parts = {"what": error.what, "got": error.got, "wanted": error.wanted, "next_step": error.next_step}
        sys.stderr.write(_error_line(parts, error.exit_code, type(error).__name__))
    else:
        said = f"error: {error}"
        sys.stderr.write(f"{fitted(said) if sys.stderr.isatty() else said}\n")
    return error.exit_code


def complain_of_usage(error: click.UsageError) -> int:
    """Say what is wrong with the command line; return the exit code."""
    if _said.as_json:
        command = error.ctx.command_path if error.ctx is not None else "fedhealth"
        parts = {"what": error.format_message(), "got": "", "wanted": "", "next_step": f"See: {command} --help"}
        sys.stderr.write(_error_line(parts, error.exit_code, "UsageError"))
    else:
        error.show()
    return error.exit_code


def stopped_line() -> str:
    """Return what is said on standard error when the person stopped the command."""
    if not _said.as_json:
        return "stopped\n"
    parts = {"what": "stopped", "got": "", "wanted": "", "next_step": ""}
    return _error_line(parts, INTERRUPTED_EXIT_CODE, "Interrupted")


def _error_line(parts: dict[str, str], code: int, kind: str) -> str:
    return json.dumps({"error": parts, "code": code, "kind": kind}) + "\n"
