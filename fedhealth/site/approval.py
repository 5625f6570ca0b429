"""An administrator approves a study, having looked at it once with the hospital's own patients in view.

Approving cuts the study's envelope out of the budget, and makes the duration of a reply public, which was measured on
made-up records of the declared size. A running gate writes the approval itself. Where the policy asks for two people,
the first approval is written down and opens nothing.

Leaves to others: what there is to look at (`fedhealth.site.examination`).
"""

import time
from base64 import urlsafe_b64encode
from dataclasses import replace
from pathlib import Path

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ApprovalMissing
from fedhealth.policy.rules import check_policy, check_year, load_policy
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.decisions import FirstApproval, Rejected
from fedhealth.privacy.ledger import Ledger
from fedhealth.secret_file import PUBLIC_MODE, create_file
from fedhealth.site.acts import record_policy
from fedhealth.site.administration import tell_gate
from fedhealth.site.examination import Proposal, approval_of, check_undecided, look_at_site
from fedhealth.site.gate_inputs import Compute
from fedhealth.site.instructions import Approve
from fedhealth.site.reply_durations import measure_replies
from fedhealth.site.state import SiteState, local_user
from fedhealth.site.study_steps import steps_of
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import open_signed


def examine_study(folder: Path, state: SiteState, data: bytes, compute: Compute) -> Proposal:
    """Look at a signed study with this hospital's patients in view, and measure how long its replies take.

    Args:
        folder: the site's folder, with `site.toml` and `policy.toml`.
        state: the site's state; the gate may be running.
        data: the signed study.
        compute: the step functions.

    Raises:
        FedHealthError: as `SiteInView.examine`.
    """
    signed, view = open_signed(data), look_at_site(folder, state)
    before = view.account.approved.get(signed.study.digest)
    if before is not None and before.researcher == signed.researcher:
        _keep(state, signed.study, data)  # a crash may have come between the two writes of an approval
    proposal = view.examine(signed, local_user(), time.time_ns() // 10**6)
    durations = measure_replies(signed.study, view.site.data_set.declared_patients, compute, state)
    return replace(proposal, approval=proposal.approval.model_copy(update={"reply_after_ms": durations}))


def approve_study(folder: Path, state: SiteState, proposal: Proposal, *, although_rejected: bool = False) -> bool:
    """Approve what was examined, as the Unix user of this process: its envelope is set aside from now on.

    Args:
        folder: the site's folder.
        state: its state.
        proposal: what was examined.
        although_rejected: approve it although it was rejected here.

    Returns:
        Whether a running gate did it, so that it serves the study already.

    Raises:
        BudgetExhausted, ApprovalMissing: another approval came between.
        PolicyForbids: the policy was changed since, and does not allow the study any more.
        ConfigInvalid, LinkUnavailable: this user may not tell the gate, or it does not answer.
    """
    instruction = Approve(
        site=load_site_file(folder).id,
        although_rejected=although_rejected,
        signed_study=urlsafe_b64encode(canonical_bytes(proposal.signed)),
        reply_after_ms=proposal.approval.reply_after_ms,
    )
    if tell_gate(state.administrators_socket, instruction):
        return True
    with state.opened_ledger(instruction.site) as ledger:
        write_approval(folder, state, ledger, instruction, local_user(), time.time_ns() // 10**6)
    return False


def write_approval(folder: Path, state: SiteState, ledger: Ledger, instruction: Approve, by: str, at: int) -> None:
    """Write an approval into the ledger and keep the signed study; durable on return.

    Whatever the study may cost follows from the study, the site's files and its budget, and is worked out again here.

    Args:
        folder: the site's folder; its files as they are now.
        state: the site's state.
        ledger: the site's, open for writing.
        instruction: what was examined.
        by: the local user who approves.
        at: now, in Unix milliseconds.

    Raises:
        FedHealthError: as `examine_study`, but for what only the data can tell; nothing was written.
    """
    site, (policy, policy_sha256) = load_site_file(folder), load_policy(folder)
    signed = open_signed(instruction.signed_study)
    digest, decisions = signed.study.digest, ledger.account.decisions
    check_policy(policy, signed, ledger.account.acts.researchers)
    check_undecided(ledger.account, signed.study, by)
    if digest in decisions.rejected and not instruction.although_rejected:
        raise rejected_before(signed.study, decisions.rejected[digest])
    split_key = state.split_key(site.split_key)
    approval = approval_of(signed, site, ledger.created, split_key, instruction.reply_after_ms, by, at)
    if instruction.reply_after_ms.keys() != steps_of(signed.study).keys():
        raise ApprovalMissing(
            f"study '{signed.study.name}' has other steps than were measured",
            next_step="Use the program of the version that the gate runs.",
        )
    check_year(policy, ledger.account, approval, ledger.created.budgets[approval.data_set])
    ledger.account.check_approval(approval)  # before anything is written: a policy that no gate follows is in no ledger
    record_policy(ledger, policy_sha256, by, at)
    if policy.approvals_needed == 2 and digest not in decisions.first:
        ledger.append(FirstApproval(study=digest, researcher=signed.researcher, by=by, at=at))
        return
    ledger.append(approval)
    _keep(state, signed.study, instruction.signed_study)


def _keep(state: SiteState, study: Study | SearchStudy, data: bytes) -> None:
    """Keep a signed study where the gate finds it; one that is there already stays."""
    file = state.studies / f"{study.digest}.json"
    if not file.exists():
        create_file(file, data, PUBLIC_MODE)


def rejected_before(study: Study | SearchStudy, rejected: Rejected) -> ApprovalMissing:
    """Return the error for a study that was rejected here, and is to be approved without a word of that."""
    reason = f", because of: {rejected.reason}" if rejected.reason else ""
    return ApprovalMissing(
        f"study '{study.name}' ({study.digest[:12]}) was rejected here by {rejected.by}{reason}",
        next_step="To approve it all the same, say so: --although-rejected",
    )
