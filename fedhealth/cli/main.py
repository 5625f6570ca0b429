"""`fedhealth <role> <verb>`: the entry point, and how errors reach a person.

A mistake of the user is one message (what, got, wanted, next step) on standard error and a stable exit code; a
traceback is a defect. Modules are imported inside the commands, so that `audit verify` loads no torch.
"""

import logging
import sys

import click
import typer

from fedhealth.cli import audit, coordinator, demo, site
from fedhealth.errors import INTERRUPTED_EXIT_CODE, FedHealthError

app = typer.Typer(
    help="Hospitals train models together while patient data never leave a hospital.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", help=demo.run.__doc__)(demo.run)
app.add_typer(site.app, name="site")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(audit.app, name="audit")


def main() -> None:
    """Run the command line and exit with its code."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except FedHealthError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        typer.echo("stopped", err=True)
        sys.exit(INTERRUPTED_EXIT_CODE)


if __name__ == "__main__":
    main()
