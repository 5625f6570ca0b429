"""`fedhealth site approve | offers | withdraw`: which studies may use this hospital's data."""

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.site_arguments import STUDY_HELP, Folder, State, made_state
from fedhealth.errors import ApprovalMissing, ConfigInvalid


def approve(
    folder: Folder,
    study: Annotated[Path, typer.Argument(metavar="SIGNED_STUDY", help="The signed study.")],
    state: State,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
) -> None:
    """Look at a study with this hospital's patients in view, and approve it or not. The gate may be running.

    What is printed here stays at the hospital. A running gate serves the study from then on; it reads its policy, its
    data and the pinned keys anew, as at a start.

    Example: fedhealth site approve sites/hungary study.signed --state state/hungary
    """
    from fedhealth.learning.diagnosis import STEPS
    from fedhealth.learning.plan import plan_study
    from fedhealth.site.approval import approve_study, examine_study
    from fedhealth.site.state import SiteState
    from fedhealth.training.per_patient import make_deterministic

    make_deterministic()
    site_state = SiteState(made_state(state))
    proposal = examine_study(folder, site_state, _read(study), STEPS)
    asked, seen = proposal.study, proposal.seen
    typer.echo(f"{asked.title} ({asked.name}, {asked.digest[:12]})")
    typer.echo(f"  purpose:     {asked.purpose}")
    typer.echo(f"  asked by:    key {proposal.approval.researcher[:12]}")
    plan = plan_study(asked)
    typer.echo(
        f"  what leaves: {plan['train'].rounds} noised gradients at most, one noised table of "
        f"{plan['evaluate'].mechanism.dimension} counts"
    )
    for side, patients in seen.patients.items():
        typer.echo(f"  {side}: {patients} patients, {seen.positives[side]} with the condition;")
        typer.echo(f"    may cost each at most {seen.share[side]:.1%} of the whole budget (this binds);")
        planned = f"epsilon {seen.epsilon[side]:.3f} at delta {asked.privacy.delta:g}"
        typer.echo(f"    {planned} as planned in advance (informative)")
    for warning in seen.warnings:
        typer.echo(f"  WARNING: {warning}")
    if not yes and not typer.confirm("Approve?"):
        typer.echo("not approved; nothing was written")
        raise typer.Exit(ApprovalMissing.exit_code)
    running = approve_study(folder, site_state, proposal)
    typer.echo(f"approved study {asked.digest} by {proposal.approval.by}")
    typer.echo("the gate serves it" if running else "the gate serves it when it is started")


def offers(
    state: State,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the studies that the coordinator offers, with the file of each to approve. The node may be running.

    Only studies with a researcher's signature that holds are listed; whether to trust the researcher is asked by
    `approve`.

    Example: fedhealth site offers --state state/hungary
    """
    import json

    from fedhealth.site.offers import read_offers

    found = read_offers(made_state(state) / "node")
    if as_json:
        shown = [
            {
                "file": str(path),
                "study": signed.study.digest,
                "name": signed.study.name,
                "researcher": signed.researcher,
            }
            for path, signed in found.items()
        ]
        typer.echo(json.dumps(shown, indent=2))
        return
    for path, signed in found.items():
        typer.echo(f"{signed.study.title} ({signed.study.name}, {signed.study.digest[:12]})")
        typer.echo(f"  asked by: key {signed.researcher[:12]}")
        typer.echo(f"  file:     {path}")
    if not found:
        typer.echo("no study is offered; the node asks whenever it connects")


def withdraw(
    folder: Folder,
    study: Annotated[str, typer.Argument(metavar="STUDY", help=f"The study: {STUDY_HELP}")],
    state: State,
) -> None:
    """Withdraw an approval: nothing more leaves for the study, from a running gate's next frame on.

    Example: fedhealth site withdraw sites/hungary 3f9ac04e --state state/hungary
    """
    from fedhealth.site.acts import withdraw_study
    from fedhealth.site.state import SiteState

    withdraw_study(folder, SiteState(made_state(state)), study)
    typer.echo("withdrawn; what the study had not spent is free again")


def _read(path: Path) -> bytes:
    """Return the content of a signed study; offered ones lie in the node's folder, where anything may lie."""
    from fedhealth.secret_file import read_plain_file
    from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES

    try:
        return read_plain_file(path, MAX_SIGNED_STUDY_BYTES)
    except OSError as error:
        raise ConfigInvalid(
            f"the signed study {path} cannot be read",
            got=error.strerror or "an error",
            wanted=f"a plain file of at most {MAX_SIGNED_STUDY_BYTES:,} bytes",
            next_step="Check the path.",
        ) from error
