"""`fedhealth demo`: four real hospitals train one diagnostic model on this machine."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.coordinator import EngineOption, check_address
from fedhealth.cli.lifeline import leaving_at_once
from fedhealth.cli.output import console, say
from fedhealth.link.engine import Engine


def run(
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything the run leaves; runs/demo-DATE by default.")
    ] = None,
    protocol: Annotated[Path, typer.Option(help="The study protocol.")] = Path(
        "protocols/heart-disease-diagnosis.toml"
    ),
    sites: Annotated[Path, typer.Option(help="A folder with one folder per site.")] = Path("sites"),
    address: Annotated[str, typer.Option(help="Where the coordinator listens, HOST:PORT.")] = "127.0.0.1:0",
    unsafe_test_sites: Annotated[
        int | None, typer.Option(help="SEED of known noise, for tests: nothing in the run is private.")
    ] = None,
    engine: EngineOption = Engine.LINK,
) -> None:
    """Run four hospitals, a coordinator and a study on this machine, and show the report.

    Example: fedhealth demo --out runs/first
    """
    check_address(address)
    with leaving_at_once():
        from fedhealth.demo.run import run_demo

    # Both ends of an enrolment are in this process: what goes wrong is raised, and who cuts one is Ctrl-C.
    logging.getLogger("fedhealth.link.enrolment_port").setLevel(logging.ERROR)
    folder = out or Path("runs") / f"demo-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    made = run_demo(
        folder, protocol, sites, console(), address=address, unsafe_noise_seed=unsafe_test_sites, engine=engine
    )
    say(
        evidence=made.evidence.model_dump(mode="json"),
        report=str(made.report),
        ledgers=[ledger.head.model_dump(mode="json") for ledger in made.ledgers],
    )
