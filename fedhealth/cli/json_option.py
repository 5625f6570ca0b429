"""`--json` at every command, `--version` at the program, whole paragraphs in help: no new command can lack them."""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import click
from typer.core import TyperGroup, TyperOption

from fedhealth.cli.output import choose, finish
from fedhealth.errors import INTERRUPTED_EXIT_CODE


class Program(TyperGroup):
    """The whole program: every command below it takes `--json`."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(**settings)
        for _, command in commands_of(self):
            command.params.append(_flag("--json", _choose, "Print JSON."))
            if command.callback is not None:
                command.callback = _answering(command.callback)
            command.help = _paragraphs(command.help or "")
        self.params.append(_flag("--version", _say_version, "Print the version."))


def commands_of(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group, with the words that name it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, name), command


def _answering(act: Callable[..., None]) -> Callable[..., None]:
    """Return what a command does, with its document at the end; there is none of a command that failed."""

    @wraps(act)
    def run(*arguments: object, **options: object) -> None:
        try:
            act(*arguments, **options)
        except click.exceptions.Exit as end:
            if end.exit_code != INTERRUPTED_EXIT_CODE:
                finish()
            raise
        finish()

    return run


def _paragraphs(text: str) -> str:
    """Return a docstring with each paragraph on one line, so that only the terminal's end breaks it."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _flag(name: str, callback: Callable[[click.Context, click.Parameter, bool], None], text: str) -> TyperOption:
    """Return an option that is met before anything that may be wrong with the rest of the command line."""
    return TyperOption(
        param_decls=[name], is_flag=True, expose_value=False, is_eager=True, callback=callback, help=text
    )


def _choose(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not context.resilient_parsing:  # the shell completes
        choose(wanted)


def _say_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"fedhealth {version('fedhealth')}")
        context.exit()
