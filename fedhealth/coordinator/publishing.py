"""What a finished run publishes: evidence, report, the signed study and the seal over them, beside the model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import fedhealth
from fedhealth.coordinator.evidence import (
    Evidence,
    LedgerHead,
    Participation,
    RunResult,
    SiteResult,
    evidence_bytes,
    evidence_of,
)
from fedhealth.coordinator.model_card import render_model_card
from fedhealth.coordinator.participation import CompletedRound, numbers_with, perhaps_charged, spans_of
from fedhealth.coordinator.run_folder import EVIDENCE, MODEL, MODEL_CARD, REPORT, SIGNED_STUDY, seal_run
from fedhealth.coordinator.store.runs import KnownRun
from fedhealth.coordinator.store.studies import KnownStudy
from fedhealth.coordinator.witness import PinnedSite
from fedhealth.errors import FederationFailed, RefusalCode
from fedhealth.link.engine import Engine
from fedhealth.link.frames import Accepted
from fedhealth.privacy.checkpoint import open_checkpoint
from fedhealth.secret_file import replace_file
from fedhealth.signing import load_public_key
from fedhealth.study.signature import open_signed_study


@dataclass(frozen=True)
class Publisher:
    """Publishes runs of one coordinator.

    Attributes:
        federation: its name.
        pinned: the sites that joined.
        key: the coordinator's witness key, which seals.
        engine: how the sites are asked.
    """

    federation: str
    pinned: Mapping[str, PinnedSite]
    key: Ed25519PrivateKey
    engine: Engine = Engine.LINK

    def publish(
        self,
        known: KnownStudy,
        run: KnownRun,
        rounds: Sequence[CompletedRound],
        approved: Mapping[str, Accepted],
        heads: Mapping[str, str],
        went_back: bool,
    ) -> None:
        """Write what is published into a run's folder, where the model is; each file is old or new, whole.

        Args:
            known: the study.
            run: with the counts of its evaluation.
            rounds: that count.
            approved: what each site signed.
            heads: of each site that showed one in this run, the newest signed head.
            went_back: the checkpoint was lost or replaced by an older one at some time.

        Raises:
            FederationFailed: a site took part, and no head of its ledger is known.
        """
        folder, signed = Path(run.folder), open_signed_study(known.signed)
        counts = run.counts or {}
        dropped = RefusalCode.BAD_REQUEST.value  # the site gave this release before, to a state that was lost
        lost = went_back or any(each.number > each.round or dropped in each.absent.values() for each in rounds)
        most = signed.study.rounds + signed.study.spare_rounds
        sites = {}
        for site in run.sites:
            if site not in heads and (numbers_with(site, rounds) or site in counts):
                raise FederationFailed(
                    f"no head of the ledger of site '{site}' is known, and it took part",
                    next_step="Have its gate connect once: the study goes on from here then.",
                )
        for site, note in heads.items():
            if site not in approved:
                continue
            ledger_key = self.pinned[site].ledger_key
            head = open_checkpoint(note, site, load_public_key(ledger_key))
            taken_part = numbers_with(site, rounds)
            *perhaps, evaluated = perhaps_charged([*(each.absent.get(site) for each in rounds), run.absent.get(site)])
            missed = sum(perhaps)
            if lost:  # what was asked before is not known here any more; a site never charges more than the envelope
                missed = most - len(taken_part)
            sites[site] = SiteResult(
                declared_patients=approved[site].declared_patients,
                rounds=taken_part,
                unconfirmed=missed,
                evaluations=int(site in counts or evaluated),
                noisy_counts=counts.get(site, {}),
                ledger=LedgerHead(size=head.size, root=head.root, note=note, ledger_key=ledger_key),
            )
        result = RunResult(
            software=f"fedhealth {fedhealth.__version__}",
            federation=self.federation,
            started=_time(run.started_at / 1000),
            finished=_time(max(datetime.now(UTC).timestamp(), run.started_at / 1000)),  # a clock may be set back
            rounds_completed=len(rounds),
            participation=Participation(sites=run.sites, rounds=spans_of(rounds), evaluation_absent=dict(run.absent)),
            sites=sites,
            model_sha256=hashlib.sha256((folder / MODEL).read_bytes()).hexdigest(),
            unsafe_test_sites=tuple(site for site in sorted(sites) if approved[site].unsafe_test_site),
            engine=self.engine,
        )
        write_results(folder, known.signed, evidence_of(signed, result), self.key)


def write_results(folder: Path, signed_study: bytes, evidence: Evidence, key: Ed25519PrivateKey) -> None:
    """Write all that is published of a run beside its model, and the seal over it.

    Args:
        folder: holds the model.
        signed_study: canonical bytes of the signed study.
        evidence: of the run.
        key: of the seal.
    """
    from fedhealth.coordinator.report import render_report  # its drawings take a second to load

    study = open_signed_study(signed_study).study
    replace_file(folder / SIGNED_STUDY, signed_study)
    replace_file(folder / EVIDENCE, evidence_bytes(evidence))
    replace_file(folder / REPORT, render_report(evidence, study, {}).encode())
    replace_file(folder / MODEL_CARD, render_model_card(evidence, study).encode())
    seal_run(folder, key)


def published_evidence(folder: Path) -> Evidence:
    """Return the evidence in a run's folder."""
    return Evidence.model_validate_json((folder / EVIDENCE).read_bytes())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
