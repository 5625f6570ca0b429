"""`fedhealth audit`: what a compliance officer does, offline."""

import dataclasses
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhealth.errors import AUDIT_FAILED_EXIT_CODE, UNSAFE_TEST_SITE_EXIT_CODE, ConfigInvalid

if TYPE_CHECKING:
    from fedhealth.compliance.budget import SideUse, StudyUse
    from fedhealth.compliance.bundle import Manifest
    from fedhealth.compliance.empirical import EmpiricalAudit
    from fedhealth.compliance.history import History
    from fedhealth.privacy.verify import VerifiedLedger

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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_BAR = 40
"""Characters of a whole budget."""


@app.command()
def verify(path: Source, evidence: Evidence = None, as_json: AsJson = False) -> None:
    """Verify a ledger or an exported bundle offline; exit 0 only if no byte was changed.

    Exit codes: 0 intact; 7 damaged (the first bad entry is named);
    8 a signature is wrong; 10 intact, but of a test site: its noise is known.

    Example: fedhealth audit verify runs/demo-DATE/state/hungary/gate
    """
    from fedhealth.compliance.bundle import is_bundle
    from fedhealth.privacy.verify import verify_ledger

    if is_bundle(path):
        history, manifest = _bundle(path, evidence)
        found = history.ledger.verified
    else:
        history, manifest, found = None, None, verify_ledger(path)
        if evidence is not None:
            found = verify_ledger(path, _published_head(evidence, found.head.site))
    if as_json:
        plain = dataclasses.asdict(found) | {"head": found.head.model_dump()}
        if manifest is not None and history is not None:
            plain["bundle"] = {"by": manifest.by, "at": manifest.at, "studies": sorted(history.studies)}
        _print_json(plain)
    else:
        _print_verified(found, evidence)
        if manifest is not None and history is not None:
            typer.echo(f"  exported    {_time(manifest.at)} by {manifest.by}, signed by the ledger key;")
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
        _print_json(plain | {"budgets": [dataclasses.asdict(side) for side in sides]})
    else:
        typer.echo(f"site '{found.head.site}': ledger intact, {found.head.size} entries")
        for side in sides:
            _print_side(side)
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
        _print_json({"site": history.created.site, "acts": [dataclasses.asdict(line) for line in lines]})
    else:
        for line in lines:
            typer.echo(f"{line.entry:6}  {_time(line.at)}  {line.by or '-'}: {line.what}")
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
    found = audit_mechanisms(secrets.randbits(48) if seed is None else seed, seconds)
    if as_json:
        _print_json(dataclasses.asdict(found))
    else:
        _print_empirical(found)
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


def _print_verified(found: "VerifiedLedger", evidence: Path | None) -> None:
    typer.echo(f"intact: {found.head.size} entries of site '{found.head.site}', {found.releases} releases charged")
    typer.echo(f"  root        {found.head.root}")
    typer.echo(f"  ledger key  {found.ledger_key}")
    if found.ledger_key != found.first_ledger_key:
        typer.echo(f"              rotated since the site joined, then it was {found.first_ledger_key}")
    typer.echo("              (compare it with the key certified when the site joined)")
    if found.policy_sha256 is not None:
        typer.echo(f"  policy      SHA-256 {found.policy_sha256} (as sha256sum policy.toml)")
    if found.paused:
        typer.echo("  paused      the whole site")
    compared = f"extends the head in {evidence}" if evidence else "with no head from outside (--evidence)"
    compared += "; with its anchor" if found.anchored else "; there is no anchor beside it"
    typer.echo(f"  compared    {compared}")
    typer.echo(f"  witnessed   up to entry {found.witnessed} by the coordinator; the policy is '{found.witness}',")
    typer.echo(f"              {found.unwitnessed} releases left without its signature")
    if found.recovered:
        typer.echo(f"  recovered   {found.recovered} entries, which the coordinator gave back; what the local journal")
        typer.echo("              said before them cannot be verified any more")
    for line in found.spending:
        typer.echo(f"  {line.data_set}, {line.cohort} patients:")
        typer.echo(f"    epsilon {line.epsilon_spent:.3f} of {line.epsilon_cap:g} spent at delta {line.delta:g},")
        typer.echo(f"    which is {line.share_spent:.1%} of the budget; approvals set aside {line.share_set_aside:.1%}")
    typer.echo("  (a budget is counted in a currency that adds up; epsilon does not)")


def _print_side(side: "SideUse") -> None:
    spent, aside = round(_BAR * side.share_spent), round(_BAR * side.share_set_aside)
    typer.echo(f"\n{side.data_set}, {side.cohort} patients")
    typer.echo(f"  cap   epsilon {side.epsilon:g} at delta {side.delta:g}, for the life of the data,")
    typer.echo(f"        counted in {side.currency}")
    typer.echo(f"  used  [{'#' * spent}{'=' * (aside - spent)}{'.' * (_BAR - aside)}]")
    typer.echo(f"        {side.share_spent:.1%} spent (#): epsilon {side.epsilon_spent:.3f};")
    typer.echo(f"        {side.share_set_aside:.1%} set aside by approvals (#=); {side.share_left:.1%} left (.)")
    for study in side.studies:
        _print_study(study)


def _print_study(study: "StudyUse") -> None:
    name = study.name or "a study whose protocol is not here"
    typer.echo(f"  {name} ({study.study[:12]})")
    typer.echo(f"    approved  {_time(study.at)} by {study.by}{'; withdrawn since' if study.withdrawn else ''}")
    for step in study.steps:
        planned = "" if step.planned is None else f" of {step.planned} planned"
        typer.echo(f"    {step.step:8}  {step.charged} releases charged{planned}")
    typer.echo(f"    spent     {study.share_of_cap:.1%} of the cap, {study.share_of_envelope:.1%} of its envelope")
    if study.plan is not None:
        typer.echo(f"    plan      epsilon {study.plan.epsilon:.3f} at delta {study.plan.delta:g} (informative)")


def _print_empirical(found: "EmpiricalAudit") -> None:
    from fedhealth.compliance.checks import ONE_RUN

    checks = sum(len(finding.checks) for finding in found.findings)
    typer.echo(f"{'passed' if found.passed else 'FAILED'}: {checks} checks of {len(found.findings)} mechanisms")
    typer.echo(f"  to repeat this run: --seed {found.seed}")
    for finding in found.findings:
        typer.echo(f"\n{finding.mechanism}")
        for check in finding.checks:
            failed = check.name in finding.failed
            mark = "FAILED" if failed else "ok"
            typer.echo(f"    {check.name:20} {mark:6} {check.measured:8.4f}, claimed {check.claimed:.4f}")
            if failed or check.name == ONE_RUN:
                typer.echo(f"      {check.unit}")
    typer.echo(f"\nA check fails below a p-value of {found.threshold:.1e}: correct mechanisms fail")
    typer.echo("in at most one run of a hundred, all checks together.")


def _print_json(plain: dict[str, Any]) -> None:
    typer.echo(json.dumps(plain, indent=2))


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


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
