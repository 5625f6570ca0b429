"""`fedhealth coordinator`: the datacentre's side."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedhealth.cli.lifeline import Lifeline, loading, run_until_stopped
from fedhealth.errors import INTERRUPTED_EXIT_CODE, ConfigInvalid

app = typer.Typer(help="For the datacentre: run a study over the sites that joined.", no_args_is_help=True)


@app.callback()
def _role() -> None:
    """Keep `run` a verb of its own while it is the only one."""


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="SIGNED_STUDY", help="The signed study.")],
    home: Annotated[Path, typer.Option(help="The coordinator's state folder.")],
    out: Annotated[Path, typer.Option(help="Folder for model, evidence and report.")],
    address: Annotated[str, typer.Option(help="Where to listen, HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:0",
    patience: Annotated[float, typer.Option(help="Seconds that a site that is away or busy is waited for.")] = 60.0,
    allow_unsafe_test_sites: Annotated[
        bool, typer.Option("--allow-unsafe-test-sites", help="For tests only: their noise is known.")
    ] = False,
    lifeline: Lifeline = False,
) -> None:
    """Run one study to its end and write evidence.json, report.html and model.safetensors; events as JSON lines.

    Example: fedhealth coordinator run study.signed --home state/coordinator --out results
    """
    check_address(address)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or a port in use is said twice, once by grpc in its own words
    with loading(lifeline):
        from fedhealth.coordinator.home import CoordinatorHome
        from fedhealth.coordinator.report import render_report
        from fedhealth.coordinator.service import RunOptions, StudyRun
        from fedhealth.study.signature import open_signed_study

    try:
        signed = study.read_bytes()
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigInvalid(
            f"cannot use {error.filename}", got=error.strerror or "an error", next_step="Check the path."
        ) from error

    def on_event(event: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    options = RunOptions(address, out, patience, allow_unsafe_test_sites)

    async def work() -> None:
        evidence = await StudyRun(CoordinatorHome(home), signed, options, on_event).run()
        titles = {site.site: site.site for site in evidence.sites}
        (out / "report.html").write_text(render_report(evidence, open_signed_study(signed).study, titles), "utf-8")

    if not run_until_stopped(work(), lifeline):
        raise typer.Exit(INTERRUPTED_EXIT_CODE)


def check_address(address: str) -> None:
    """Refuse what is not HOST:PORT: gRPC would take a port that is missing for 443, and 99999 for 34463.

    Raises:
        ConfigInvalid: there is no host, or no port from 0 to 65535.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigInvalid(
            "the coordinator cannot listen there",
            got=f"--address {address}",
            wanted="HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:0",
            next_step="Correct the address; port 0 takes a free one.",
        )
