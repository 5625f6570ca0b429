"""`fedhealth audit verify` and `audit acts`: a ledger, a bundle, or the folder that a run published."""

import dataclasses
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.audit_arguments import (
    Evidence,
    Source,
    WitnessKey,
    end_of_test_site,
    published_head,
)
from fedhealth.cli.audit_text import certificate_lines, run_lines, shown, simulation_lines, verified_lines
from fedhealth.cli.output import answer, say, say_lines
from fedhealth.compliance.times import time_text
from fedhealth.errors import ConfigInvalid

if TYPE_CHECKING:
    from fedhealth.compliance.federation import SiteLedger


def verify(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_FOLDER_OR_LEDGER",
            help="A run's folder; or a gate's state folder, its ledger.sqlite, a copy, an exported bundle; "
            "or a simulation's ledger.",
        ),
    ],
    evidence: Evidence = None,
    ledgers: Annotated[
        list[Path] | None,
        typer.Option(help="With a run: the sites' ledgers or exported bundles, or a folder of them; repeat it."),
    ] = None,
    witness: WitnessKey = None,
) -> None:
    """Verify a run, a ledger or an exported bundle offline; exit 0 only if no byte was changed.

    Of a run: the seal, the study's signature, every figure worked out again,
    the model, the report, the sites' signed heads; bundles in its folder, and
    what --ledgers gives, are compared with it charge by charge.

    Of a ledger: every byte, and the certificate of its key where that lies
    beside it as ledger.certificate.json.

    Exit codes: 0 intact; 7 damaged (the first bad entry, or each check that
    failed, is named); 8 a signature or key is wrong; 10 intact, but of a test
    site: its noise is known; 13 intact, but of a simulation: no such sites.

    Example: fedhealth audit verify runs/demo-DATE/results
    """
    from fedhealth.compliance.run_checks import is_run
    from fedhealth.privacy.ledger_database import is_simulated_ledger

    if is_run(path):
        if evidence is not None:
            raise ConfigInvalid(
                "a run's folder has its own evidence",
                got="--evidence",
                next_step="Leave it out, or verify a ledger against it.",
            )
        _verify_run(path, ledgers or [], witness)
    elif ledgers:
        raise ConfigInvalid(
            f"{path} is no run's folder",
            got="--ledgers",
            wanted="a folder with evidence.json, model.safetensors, model-card.md, report.html and study.signed",
            next_step="Check the path, or leave out --ledgers.",
        )
    elif is_simulated_ledger(path):
        _verify_simulation(path)
    else:
        _verify_ledger(path, evidence, witness)


def _verify_ledger(path: Path, evidence: Path | None, witness: str | None) -> None:
    from fedhealth.compliance.bundle import is_bundle
    from fedhealth.compliance.ledger_certificate import certificate_beside, check_witness_key
    from fedhealth.privacy.verify import verify_ledger

    bundle = _ledger(path, evidence) if is_bundle(path) else None
    if bundle is not None:
        found = bundle.history.ledger.verified
    else:
        found = verify_ledger(path)
        if evidence is not None:
            found = verify_ledger(path, published_head(evidence, found.head.site))
    if witness is not None:
        check_witness_key(found, witness)
    certificate = certificate_beside(path, found)
    seen = None if evidence is None else int(published_head(evidence, found.head.site).split("\n")[1])
    answer(dataclasses.asdict(found) | {"extends_head_of": seen, "certificate": certificate})
    say_lines(verified_lines(found, evidence, seen))
    say_lines(certificate_lines(found, certificate, named=witness is not None))
    if bundle is not None and bundle.exported is not None:
        by, at, studies = bundle.exported.by, bundle.exported.at, sorted(bundle.history.studies)
        say(
            f"  exported    {time_text(at)} by {shown(by)}, signed by the ledger key;",
            bundle={"by": by, "at": at, "studies": studies},
        )
        say(f"              {len(studies)} signed studies in it, no journal, no payload")
    end_of_test_site(found.unsafe_test_site, found.simulation)


def acts(path: Source, evidence: Evidence = None) -> None:
    """List what people did at a site, by whom and when, after verifying the ledger.

    Approvals and withdrawals, policies, pauses, changes of the ledger key. Times are the site's own.

    Exit codes: those of `audit verify`.

    Example: fedhealth audit acts runs/demo-DATE/state/hungary/gate
    """
    from fedhealth.compliance.acts import acts_of

    ledger = _ledger(path, evidence)
    lines = acts_of(ledger.history)
    answer({"site": ledger.site, "acts": [dataclasses.asdict(line) for line in lines]})
    for line in lines:
        say(f"{line.entry:6}  {time_text(line.at)}  {shown(line.by or '-')}")
        say(textwrap.fill(line.what, 80, initial_indent=" " * 8, subsequent_indent=" " * 10))
    end_of_test_site(ledger.history.created.unsafe_test_site, ledger.history.created.simulation)


def _verify_run(folder: Path, ledgers: list[Path], witness: str | None) -> None:
    from fedhealth.compliance.federation import bundles_in, read_federation
    from fedhealth.compliance.run_checks import check_run

    found = check_run(folder, read_federation([*bundles_in(folder), *ledgers]), witness)
    answer(dataclasses.asdict(found) | {"run": folder, "passed": found.passed})
    say_lines(run_lines(found, folder))
    if not found.passed:
        raise typer.Exit(found.exit_code)
    end_of_test_site(bool(found.unsafe_test_sites), found.simulation)


def _verify_simulation(path: Path) -> None:
    from fedhealth.privacy.simulated_ledger import verify_simulated_ledger

    found = list(verify_simulated_ledger(path))
    answer({"simulation": True, "sites": [dataclasses.asdict(each) for each in found]})
    say_lines(simulation_lines(found))
    end_of_test_site(True, simulation=True)


def _ledger(path: Path, evidence: Path | None) -> "SiteLedger":
    """Verify a gate's folder, a ledger or a bundle, and return what it holds."""
    from fedhealth.compliance.federation import read_site

    ledger = read_site(path)
    if evidence is not None:
        ledger.history.check_seen(published_head(evidence, ledger.site))
    return ledger
