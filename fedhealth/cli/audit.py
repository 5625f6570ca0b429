"""`fedhealth audit`: what a compliance officer does, offline."""

import dataclasses
import json
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.audit_text import (
    certificate_lines,
    empirical_lines,
    json_text,
    shown,
    side_lines,
    time_text,
    verified_lines,
)
from fedhealth.errors import AUDIT_FAILED_EXIT_CODE, UNSAFE_TEST_SITE_EXIT_CODE, ConfigInvalid

if TYPE_CHECKING:
    from fedhealth.compliance.bundle import Manifest
    from fedhealth.compliance.history import History
    from fedhealth.compliance.subjects import Subject
    from fedhealth.privacy.verified_ledger import VerifiedLedger

app = typer.Typer(
    help="For the compliance officer: verify ledgers, read budgets, export for the regulator. All of it offline.",
    no_args_is_help=True,
)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="GATE_FOLDER_OR_FILE", help="A gate's state folder, its ledger.sqlite, a copy, or an exported bundle."
    ),
]
Evidence = Annotated[
    Path | None,
    typer.Option(help="A run's evidence.json: the ledger must extend the head of this site that is in it."),
]
WitnessKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The coordinator's witness key, from its operator: the ledger must name it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def verify(path: Source, evidence: Evidence = None, witness: WitnessKey = None, as_json: AsJson = False) -> None:
    """Verify a ledger or an exported bundle offline; exit 0 only if no byte was changed.

    The certificate of the ledger key, ledger.certificate.json, is verified where
    it lies beside the ledger.

    Exit codes: 0 intact; 7 damaged (the first bad entry is named);
    8 a signature is wrong; 10 intact, but of a test site: its noise is known.

    Example: fedhealth audit verify runs/demo-DATE/state/hungary/gate
    """
    from fedhealth.compliance.bundle import is_bundle
    from fedhealth.compliance.ledger_certificate import certificate_beside, check_witness_key
    from fedhealth.privacy.verify import verify_ledger

    if is_bundle(path):
        history, manifest = _bundle(path, evidence)
        found = history.ledger.verified
    else:
        history, manifest, found = None, None, verify_ledger(path)
        if evidence is not None:
            found = verify_ledger(path, _published_head(evidence, found.head.site))
    if witness is not None:
        check_witness_key(found, witness)
    certificate = certificate_beside(path, found)
    seen = None if evidence is None else int(_published_head(evidence, found.head.site).split("\n")[1])
    if as_json:
        plain = dataclasses.asdict(found) | {"head": found.head.model_dump(), "extends_head_of": seen}
        plain["certificate"] = certificate.model_dump() if certificate is not None else None
        if manifest is not None and history is not None:
            plain["bundle"] = {"by": manifest.by, "at": manifest.at, "studies": sorted(history.studies)}
        typer.echo(json_text(plain))
    else:
        _say(verified_lines(found, evidence, seen))
        _say(certificate_lines(found, certificate, named=witness is not None))
        if manifest is not None and history is not None:
            typer.echo(f"  exported    {time_text(manifest.at)} by {shown(manifest.by)}, signed by the ledger key;")
            typer.echo(f"              {len(history.studies)} signed studies in it, no journal, no payload")
    _end(found)


@app.command()
def budget(path: Source, evidence: Evidence = None, as_json: AsJson = False) -> None:
    """Say what each data set's budget was spent on, after verifying the ledger.

    Exit codes: those of `audit verify`.

    Example: fedhealth audit budget runs/demo-DATE/state/hungary/gate
    """
    from fedhealth.compliance.budget import budget_use

    history = _history(path, evidence)
    found, sides = history.ledger.verified, budget_use(history)
    if as_json:
        plain = {"site": found.head.site, "head": found.head.model_dump(), "ledger_key": found.ledger_key}
        typer.echo(json_text(plain | {"budgets": [dataclasses.asdict(side) for side in sides]}))
    else:
        typer.echo(f"site '{found.head.site}': ledger intact, {found.head.size} entries")
        for side in sides:
            _say(side_lines(side))
        typer.echo("Shares of a cap bind. A plan's epsilon is informative: it holds for that plan")
        typer.echo("as committed in advance; epsilons of several studies do not add up.")
    _end(found)


@app.command()
def acts(path: Source, evidence: Evidence = None, as_json: AsJson = False) -> None:
    """List what people did at a site, by whom and when, after verifying the ledger.

    Approvals and withdrawals, policies, pauses, changes of the ledger key. Times are the site's own.

    Exit codes: those of `audit verify`.

    Example: fedhealth audit acts runs/demo-DATE/state/hungary/gate
    """
    from fedhealth.compliance.acts import acts_of

    history = _history(path, evidence)
    lines = acts_of(history)
    if as_json:
        typer.echo(json_text({"site": history.created.site, "acts": [dataclasses.asdict(line) for line in lines]}))
    else:
        for line in lines:
            typer.echo(f"{line.entry:6}  {time_text(line.at)}  {shown(line.by or '-')}")
            typer.echo(textwrap.fill(line.what, 80, initial_indent=" " * 8, subsequent_indent=" " * 10))
    _end(history.ledger.verified)


@app.command()
def export(
    path: Annotated[
        Path, typer.Argument(metavar="GATE_FOLDER_OR_LEDGER", help="A gate's state folder, its ledger.sqlite, a copy.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The file to write; a new one.")],
    key: Annotated[
        Path | None, typer.Option(help="The ledger's key; ledger.key beside the ledger if not given.")
    ] = None,
) -> None:
    """Write one signed file that a regulator can verify with this program alone.

    It holds the ledger's entries, its signed head, the coordinator's receipt
    and the signed studies: nothing that depends on patients. The local journal,
    salts and payloads stay. Run it as the gate's user, who has the key.

    Exit codes: those of `audit verify`.

    Example: fedhealth audit export state/hungary/gate -o hungary.bundle
    """
    from fedhealth.compliance.bundle import make_bundle, read_bundle
    from fedhealth.compliance.history import read_gate
    from fedhealth.secret_file import create_file
    from fedhealth.signing import load_signing_key
    from fedhealth.site.state import local_user

    history = read_gate(path)
    secret = load_signing_key(key or (path if path.is_dir() else path.parent) / "ledger.key")
    data = make_bundle(history, secret, local_user(), time.time_ns() // 10**6)
    read_bundle(data)
    create_file(output, data)
    found = history.ledger.verified
    typer.echo(f"wrote {output}: {len(data)} bytes,")
    typer.echo(f"  {found.head.size} entries and {len(history.studies)} signed studies of site '{found.head.site}'")
    typer.echo(f"  whoever gets it checks it with: fedhealth audit verify {output.name}")
    _end(found)


@app.command()
def empirical(
    seed: Annotated[
        int | None, typer.Option(min=0, help="Repeat the run with this seed; a new one if not given.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="About how long to look; more finds smaller mistakes.")
    ] = 3.0,
    as_json: AsJson = False,
) -> None:
    """Run every mechanism that ships and compare what it does with what it claims.

    It needs no data and no site. A run on correct mechanisms fails at most once
    in a hundred: if one fails, take another seed; if that fails too, stop the
    gates and report it (SECURITY.md).

    Exit codes: 0 passed; 12 a mechanism does not do what it claims.

    Example: fedhealth audit empirical
    """
    import secrets

    from fedhealth.compliance.empirical import audit_mechanisms
    from fedhealth.training.per_patient import make_deterministic

    make_deterministic()

    def watched(mechanisms: "tuple[Subject, ...]") -> "Iterator[Subject]":
        hidden = as_json or not sys.stderr.isatty()
        with typer.progressbar(mechanisms, label="mechanisms", file=sys.stderr, hidden=hidden) as one_by_one:
            yield from one_by_one

    found = audit_mechanisms(secrets.randbits(48) if seed is None else seed, seconds, watched=watched)
    if as_json:
        typer.echo(json_text(dataclasses.asdict(found)))
    else:
        _say(empirical_lines(found))
    if not found.passed:
        typer.echo("FAILED: a mechanism does not do what it claims.", err=True)
        raise typer.Exit(AUDIT_FAILED_EXIT_CODE)


def _history(path: Path, evidence: Path | None) -> "History":
    """Verify a gate's folder, a ledger or a bundle, and return what it holds."""
    from fedhealth.compliance.bundle import is_bundle
    from fedhealth.compliance.history import read_gate

    if is_bundle(path):
        return _bundle(path, evidence)[0]
    history = read_gate(path)
    return history if evidence is None else read_gate(path, _published_head(evidence, history.created.site))


def _bundle(path: Path, evidence: Path | None) -> "tuple[History, Manifest]":
    from fedhealth.compliance.bundle import read_bundle

    data = path.read_bytes()
    history, manifest = read_bundle(data)
    if evidence is not None:
        return read_bundle(data, _published_head(evidence, manifest.site))
    return history, manifest


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _end(found: "VerifiedLedger") -> None:
    if found.unsafe_test_site:
        typer.echo("TEST SITE: its noise is known; nothing it released is private.", err=True)
        raise typer.Exit(UNSAFE_TEST_SITE_EXIT_CODE)


def _published_head(evidence: Path, site: str) -> str:
    """Return the signed head of a site's ledger from an evidence file."""
    try:
        sites = json.loads(evidence.read_bytes())["sites"]
        return str(next(each["ledger"]["note"] for each in sites if each["site"] == site))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ConfigInvalid(
            f"{evidence} holds no head of site '{site}'",
            wanted="the evidence.json of a run in which the site took part",
            next_step="Check the path.",
        ) from error
