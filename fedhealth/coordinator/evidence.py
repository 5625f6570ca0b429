"""The evidence of a run: exactly what a real federation could publish, and nothing else.

Everything here is computed from noisy counts that were charged, and from public figures: no raw count, no exact size,
no accuracy before noise. Files of this form never hold the "reference" figures that exist for public data.

What happened (`RunResult`) is kept apart from what follows of it (`evidence_of`), so that whoever has the evidence and
the signed study can work out all figures again: `evidence_of(signed, result_of(evidence)) == evidence`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedhealth.coordinator.participation import Span
from fedhealth.learning.binary_figures import Figures
from fedhealth.learning.evaluation import noise_of
from fedhealth.learning.figures import FigureTable
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.learning.plan import plan_study
from fedhealth.link.engine import Engine
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.release import Cohort
from fedhealth.study.protocol import Study
from fedhealth.study.signature import SignedStudy


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spent(_Part):
    """What a hospital's patients were charged for one purpose.

    Attributes:
        purpose: "training" or "evaluation".
        patients: the side of the data set that paid; the two sides share no patient.
        releases: how many releases were charged.
        noise_multiplier: standard deviation of the noise over the sensitivity, of each release.
        sampling_rate: the probability with which a patient was in each of them.
        epsilon: of all these releases together, at the study's delta, as committed in advance by the protocol.
    """

    purpose: Literal["training", "evaluation"]
    patients: Cohort
    releases: int
    noise_multiplier: float
    sampling_rate: float
    epsilon: float


class Participation(_Part):
    """Which sites took part in what.

    Attributes:
        sites: all sites of the study, in alphabetical order.
        rounds: every round that counts, in order, by the numbers of the releases; a number that is missing was lost.
        evaluation_absent: the public code of each site that released nothing of the finished model.
        too_small: sites that were left out before the run, because they declare fewer patients than the study asks.
    """

    sites: tuple[str, ...]
    rounds: tuple[Span, ...]
    evaluation_absent: dict[str, str] = {}
    too_small: tuple[str, ...] = ()

    @property
    def is_partial(self) -> bool:
        """Whether a site was missing from a round or from the evaluation."""
        return bool(self.evaluation_absent) or any(span.absent for span in self.rounds)


class LedgerHead(_Part):
    """The signed, countersigned head of a site's ledger after the run, and the key that signs it."""

    size: int
    root: str
    note: str
    ledger_key: str


class SiteEvidence(_Part):
    """One hospital's part.

    Attributes:
        site: its id.
        declared_patients: its public round figure.
        rounds: the training releases it gave, by their numbers in its ledger.
        unconfirmed: training releases that it may have charged and that are in no round, because the answer was lost
            or late; its ledger says whether it did, here they count as if it had.
        epsilon: what any one patient was charged at most; a patient is on one side only.
        delta: at this delta.
        spent: the same by purpose.
        noisy_counts: the released counts of held-out patients, by the names of their cells; none where the site
            released none.
        noise_standard_deviation: of each of those counts, by the name of the line that it belongs to.
        figures: what they say; None where there are none, or the protocol does not ask for each site's.
        ledger: its ledger's head.
    """

    site: str
    declared_patients: int
    rounds: tuple[int, ...]
    unconfirmed: int = 0
    epsilon: float
    delta: float
    spent: tuple[Spent, ...]
    noisy_counts: dict[str, float]
    noise_standard_deviation: dict[str, float]
    figures: Figures | FigureTable | None
    ledger: LedgerHead


class Evidence(_Part):
    """The whole of `evidence.json`.

    Attributes:
        study: name, title, digest, purpose and legal basis of the protocol.
        researcher: public key that signed it.
        engine: how the sites were asked.
        rounds_planned: of the protocol.
        rounds_completed: how many of them count.
        participation: who took part in which of them.
        partial: a site was missing from a round or from the evaluation.
        too_wide: figures with a wider half-interval are withheld.
        pooled: figures over the held-out patients of all sites that evaluated the model.
        sites: in alphabetical order.
        model_sha256: of `model.safetensors`.
        unsafe_test_sites: sites whose noise is known; where this is not empty, nothing here is private.
        simulation: no hospital took part: sites were made up of the rows of one table, in one process.
    """

    format: Literal["fedhealth/evidence/1"] = "fedhealth/evidence/1"
    software: str
    federation: str
    study: dict[str, str]
    researcher: str
    engine: Engine = Engine.LINK
    started: str
    finished: str
    rounds_planned: int
    rounds_completed: int
    participation: Participation
    partial: bool
    held_out_fraction: float
    too_wide: float
    pooled: Figures | FigureTable
    sites: tuple[SiteEvidence, ...]
    model_sha256: str
    unsafe_test_sites: tuple[str, ...] = ()
    simulation: bool = False


@dataclass(frozen=True)
class SiteResult:
    """What one site did in a run.

    Attributes:
        declared_patients: its public round figure.
        rounds: the training releases it gave, by their numbers in its ledger.
        evaluations: evaluation releases it gave, or may have charged.
        noisy_counts: the released counts of held-out patients; empty where it released none.
        ledger: its ledger's head after the run.
        unconfirmed: as in `SiteEvidence`.
    """

    declared_patients: int
    rounds: tuple[int, ...]
    evaluations: int
    noisy_counts: Mapping[str, float]
    ledger: LedgerHead
    unconfirmed: int = 0


@dataclass(frozen=True)
class RunResult:
    """What happened in a run; the attributes are those of `Evidence`, sites by their ids."""

    software: str
    federation: str
    started: str
    finished: str
    rounds_completed: int
    participation: Participation
    sites: Mapping[str, SiteResult]
    model_sha256: str
    unsafe_test_sites: tuple[str, ...] = ()
    simulation: bool = False
    engine: Engine = Engine.LINK


def evidence_of(signed: SignedStudy, run: RunResult) -> Evidence:
    """Return what may be published of a run; every figure in it is computed here."""
    study = signed.study
    noise = noise_of(study, plan_study(study)["evaluate"].mechanism.standard_deviation)
    outcome, too_wide = outcome_of(study), study.evaluation.too_wide
    released = [site.noisy_counts for _, site in sorted(run.sites.items()) if site.noisy_counts]
    sites = []
    for name, site in sorted(run.sites.items()):
        spent = spent_by(study, len(site.rounds) + site.unconfirmed, site.evaluations)
        sites.append(
            SiteEvidence(
                site=name,
                declared_patients=site.declared_patients,
                rounds=site.rounds,
                unconfirmed=site.unconfirmed,
                epsilon=max((line.epsilon for line in spent), default=0.0),
                delta=study.privacy.delta,
                spent=spent,
                noisy_counts=dict(site.noisy_counts),
                noise_standard_deviation=noise,
                figures=outcome.figures(study, [site.noisy_counts], noise)
                if study.evaluation.each_site and site.noisy_counts
                else None,
                ledger=site.ledger,
            )
        )
    return Evidence(
        software=run.software,
        federation=run.federation,
        study={
            "name": study.name,
            "title": study.title,
            "digest": study.digest,
            "purpose": study.purpose,
            "legal_basis": study.legal_basis,
        },
        researcher=signed.researcher,
        engine=run.engine,
        started=run.started,
        finished=run.finished,
        rounds_planned=study.rounds,
        rounds_completed=run.rounds_completed,
        participation=run.participation,
        partial=run.participation.is_partial,
        held_out_fraction=study.evaluation.held_out_fraction,
        too_wide=too_wide,
        pooled=outcome.figures(study, released, noise),
        sites=tuple(sites),
        model_sha256=run.model_sha256,
        unsafe_test_sites=run.unsafe_test_sites,
        simulation=run.simulation,
    )


def result_of(evidence: Evidence) -> RunResult:
    """Return what an evidence says that happened, without the figures that follow of it."""
    return RunResult(
        software=evidence.software,
        federation=evidence.federation,
        started=evidence.started,
        finished=evidence.finished,
        rounds_completed=evidence.rounds_completed,
        participation=evidence.participation,
        sites={
            site.site: SiteResult(
                declared_patients=site.declared_patients,
                rounds=site.rounds,
                unconfirmed=site.unconfirmed,
                evaluations=sum(line.releases for line in site.spent if line.purpose == "evaluation"),
                noisy_counts=site.noisy_counts,
                ledger=site.ledger,
            )
            for site in evidence.sites
        },
        model_sha256=evidence.model_sha256,
        unsafe_test_sites=evidence.unsafe_test_sites,
        simulation=evidence.simulation,
        engine=evidence.engine,
    )


def evidence_bytes(evidence: Evidence) -> bytes:
    """Return the one form in which evidence is written to `evidence.json`."""
    return evidence.model_dump_json(indent=2).encode() + b"\n"


def evidence_schema() -> str:
    """Return the JSON Schema of `evidence.json`, as it is published in docs/schemas."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Evidence.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


@lru_cache(maxsize=256)
def spent_by(study: Study, training_releases: int, evaluation_releases: int) -> tuple[Spent, ...]:
    """Return what a site's patients were charged, by purpose.

    Args:
        study: the protocol.
        training_releases: releases of the training step that this site charged.
        evaluation_releases: of the evaluation step.
    """
    lines = []
    for step in plan_study(study).values():
        if releases := training_releases if step.name == "train" else evaluation_releases:
            lines.append(
                Spent(
                    purpose="training" if step.name == "train" else "evaluation",
                    patients=step.cohort,
                    releases=releases,
                    noise_multiplier=step.mechanism.noise_multiplier,
                    sampling_rate=step.sampling_rate,
                    epsilon=informative_epsilon(step.plan(releases), study.privacy.delta).epsilon,
                )
            )
    return tuple(lines)
