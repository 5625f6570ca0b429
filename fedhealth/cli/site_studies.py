"""`fedhealth site studies | approve | reject | withdraw | budget`: which studies may use this hospital's data."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.completion import approved_studies, offered_studies, rejection_reasons
from fedhealth.cli.output import agreed, answer, say, say_lines, working
from fedhealth.cli.site_arguments import STUDY_HELP, Folder, State, made_state
from fedhealth.cli.site_text import budget_lines, proposal_lines, study_lines
from fedhealth.errors import ApprovalMissing, ConfigInvalid

if TYPE_CHECKING:
    from fedhealth.privacy.decisions import RejectionReason
    from fedhealth.site.state import SiteState


def studies(folder: Folder, state: State) -> None:
    """List the studies that wait for a decision, and every one that was decided on. Gate and node may be running.

    What is asked, by whom, what leaves, what it costs and what is left of the budget then, and for those that wait,
    whether this hospital has the patients. Counts of patients stay here: show them to nobody outside.

    Example: fedhealth site studies sites/hungary --state state/hungary
    """
    import dataclasses

    from fedhealth.site.examination import look_at_site
    from fedhealth.site.state import SiteState
    from fedhealth.site.studies import studies_at

    site_state = SiteState(made_state(state))
    found = studies_at(look_at_site(folder, site_state), site_state)
    answer({"studies": [dataclasses.asdict(view) for view in found]})
    for view in found:
        say_lines(study_lines(view))
    if not found:
        say("no study is offered and none was decided on; a running node asks every few seconds")


def approve(
    folder: Folder,
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help=f"An offered study: {STUDY_HELP} Or the file of a signed study.",
            autocompletion=offered_studies,
        ),
    ],
    state: State,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    although_rejected: Annotated[
        bool, typer.Option("--although-rejected", help="Approve a study that was rejected here.")
    ] = False,
) -> None:
    """Look at a study with this hospital's patients in view, and approve it or not. The gate may be running.

    What is printed here stays at the hospital. A running gate serves the study from then on; it reads its policy, its
    data and the pinned keys anew, as at a start. Where policy.toml says `approvals_needed = 2`, another Unix user must
    approve as well before anything can leave.

    Example: fedhealth site approve sites/hungary 3f9ac04e --state state/hungary
    """
    import dataclasses

    from fedhealth.learning.steps import STEPS
    from fedhealth.policy.site_file import load_site_file
    from fedhealth.site.approval import approve_study, examine_study, rejected_before
    from fedhealth.site.state import SiteState
    from fedhealth.training.device import choose_device
    from fedhealth.training.per_patient import make_deterministic

    make_deterministic()
    site_state = SiteState(made_state(state))
    choose_device(load_site_file(folder).device)  # how long replies take is measured on what the gate computes on
    with working("looking at this hospital's patients, and timing replies"):
        proposal = examine_study(folder, site_state, _signed_study(site_state, study), STEPS)
    asked = proposal.signed.study
    if proposal.rejected is not None and not although_rejected:
        raise rejected_before(asked, proposal.rejected)
    say_lines(proposal_lines(proposal))
    if not yes and not agreed("Approve?"):
        say("not approved; nothing was written")
        raise typer.Exit(ApprovalMissing.exit_code)
    running = approve_study(folder, site_state, proposal, although_rejected=although_rejected)
    by = proposal.approval.by
    answer({"study": asked.digest, "approved": not proposal.is_first, "by": by, "gate_running": running})
    answer({"researcher": proposal.approval.researcher, "here": dataclasses.asdict(proposal.seen)})
    if proposal.is_first:
        say(f"approved study {asked.digest} by {by}, as the first of two people")
        say("nothing is open yet: another Unix user must approve it as well")
        return
    say(f"approved study {asked.digest} by {by}")
    say("the gate serves it" if running else "the gate serves it when it is started")


def reject(
    folder: Folder,
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help=f"An offered study: {STUDY_HELP}", autocompletion=offered_studies)
    ],
    state: State,
    reason: Annotated[
        str | None,
        typer.Option(
            help="One word: purpose, legal-basis, cost, researcher, other.",
            show_default=False,
            autocompletion=rejection_reasons,
        ),
    ] = None,
) -> None:
    """Say that a study shall not run here; the ledger keeps who did, and why. The gate may be running.

    The other side sees a study that is not approved, and a ledger that grew by an entry that it cannot read. A reason
    is one word of a list, because the ledger is shown to others and a sentence could tell of patients.

    Example: fedhealth site reject sites/hungary 3f9ac04e --state state/hungary --reason cost
    """
    from fedhealth.site.acts import reject_study
    from fedhealth.site.state import SiteState
    from fedhealth.site.studies import offered_study

    site_state, why = SiteState(made_state(state)), _reason(reason)
    digest = study if re.fullmatch("[0-9a-f]{64}", study) else offered_study(site_state, _prefix(study)).study.digest
    reject_study(folder, site_state, digest, why)
    say(f"rejected study {digest}", study=digest, rejected=True, reason=why)


def withdraw(
    folder: Folder,
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help=f"The study: {STUDY_HELP}", autocompletion=approved_studies)
    ],
    state: State,
) -> None:
    """Withdraw an approval: nothing more leaves for the study, from a running gate's next frame on.

    Example: fedhealth site withdraw sites/hungary 3f9ac04e --state state/hungary
    """
    from fedhealth.site.acts import withdraw_study
    from fedhealth.site.state import SiteState

    running = withdraw_study(folder, SiteState(made_state(state)), study)
    say("withdrawn; what the study had not spent is free again", withdrawn=study, gate_running=running)


def budget(folder: Folder, state: State) -> None:
    """Say what the data set's budget is, what each study may cost and has cost, and what is left. Writes nothing.

    Shares of the budget bind and add up. An epsilon informs: a study's holds for its plan as committed in advance, and
    epsilons of several studies do not add up.

    Example: fedhealth site budget sites/hungary --state state/hungary
    """
    import dataclasses
    import time

    from fedhealth.privacy.verified_ledger import spending_of
    from fedhealth.site.examination import look_at_site
    from fedhealth.site.state import SiteState
    from fedhealth.site.studies import approved_studies

    site_state = SiteState(made_state(state))
    view = look_at_site(folder, site_state)
    sides, approved = spending_of(view.account), approved_studies(view, site_state)
    now = time.time_ns() // 10**6
    years = [view.year_use(side.data_set, side.cohort, now) for side in sides]
    shown = [
        dataclasses.asdict(side)
        | {
            "share_left": 1.0 - side.share_set_aside,
            "year": dataclasses.asdict(year),
            "studies": [
                {"study": each.study, "name": each.name, "standing": each.standing} | dataclasses.asdict(cost)
                for each in approved
                for cost in each.costs
                if cost.cohort == side.cohort
            ],
        }
        for side, year in zip(sides, years, strict=True)
    ]
    asked = [
        {"study": each.study, "name": each.name, "shares": dataclasses.asdict(each.shares)}
        | {"asked": [dataclasses.asdict(one) for one in each.asked]}
        for each in approved
        if each.shares.of_an_asker is not None
    ]
    answer({"budgets": shown, "counts": asked})
    say_lines(budget_lines(zip(sides, years, strict=True), approved))


def _reason(given: str | None) -> "RejectionReason | None":
    from typing import get_args

    from fedhealth.privacy.decisions import RejectionReason

    if given is None:
        return None
    reasons: tuple[RejectionReason, ...] = get_args(RejectionReason)
    for reason in reasons:
        if given == reason:
            return reason
    raise ConfigInvalid(
        "a rejection has no such reason",
        got=given[:80],
        wanted=f"one of {', '.join(reasons)}",
        next_step="The ledger is shown to others, so no sentence goes into it; write yours down elsewhere.",
    )


def _prefix(study: str) -> str:
    if not re.fullmatch("[0-9a-f]{8,64}", study):
        raise ConfigInvalid(
            "no study can have this digest", got=study[:80], wanted=STUDY_HELP, next_step="See: fedhealth site studies"
        )
    return study


def _signed_study(state: "SiteState", study: str) -> bytes:
    """Return the signed bytes of an offered study, or of a file."""
    from fedhealth.canonical import canonical_bytes
    from fedhealth.site.studies import offered_study

    if re.fullmatch("[0-9a-f]{8,64}", study):
        return canonical_bytes(offered_study(state, study))
    return _read(Path(study))


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
