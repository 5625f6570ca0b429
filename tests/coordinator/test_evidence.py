"""What evidence says of a run: who took part, what was spent, and that all of it can be worked out again."""

import json
from pathlib import Path

import dp_accounting
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dp_accounting.pld import PLDAccountant

from fedhealth.coordinator.evidence import (
    Evidence,
    LedgerHead,
    Participation,
    RunResult,
    SiteResult,
    Span,
    evidence_bytes,
    evidence_of,
    evidence_schema,
    result_of,
    spent_by,
)
from fedhealth.learning.evaluation import lines_of
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import open_signed_study, sign_study

STUDY = load_study(Path(__file__).resolve().parents[2] / "protocols" / "heart-disease-diagnosis.toml")


def pld_epsilon(noise_multiplier, releases, delta):
    """Return epsilon by Google's privacy loss distributions, an independent accountant."""
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier), releases)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("training", "evaluation"), [(20, 1), (7, 1), (20, 0), (1, 0)])
def test_what_was_spent_is_what_an_independent_accountant_says(training, evaluation):
    lines = spent_by(STUDY, training, evaluation)
    assert [line.purpose for line in lines] == ["training", "evaluation"][: 1 + (evaluation > 0)]
    assert [line.patients for line in lines] == ["training", "held-out"][: 1 + (evaluation > 0)]
    for line, releases in zip(lines, (training, evaluation), strict=False):
        assert line.releases == releases
        independent = pld_epsilon(line.noise_multiplier, releases, STUDY.privacy.delta)
        assert line.epsilon == pytest.approx(independent, rel=2e-3)


def test_a_whole_study_costs_what_its_protocol_asks_and_not_more():
    training, evaluation = spent_by(STUDY, STUDY.training.rounds + STUDY.training.spare_rounds, 1)
    assert STUDY.privacy.training_epsilon * 0.999 < training.epsilon <= STUDY.privacy.training_epsilon
    assert STUDY.privacy.evaluation_epsilon * 0.999 < evaluation.epsilon <= STUDY.privacy.evaluation_epsilon
    assert training.noise_multiplier == plan_study(STUDY)["train"].mechanism.noise_multiplier


def test_nothing_charged_is_nothing_spent():
    assert spent_by(STUDY, 0, 0) == ()


def run_of(study, absent=None, evaluation_absent=None, sites=("a", "b")):
    cells = [cell for line in lines_of(study) for cell in line.cells]
    return RunResult(
        software="fedhealth 0",
        federation="two",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
        rounds_completed=20,
        participation=Participation(
            sites=sites,
            rounds=(Span(first=1, last=20, absent=absent or {}),),
            evaluation_absent=evaluation_absent or {},
        ),
        sites={
            site: SiteResult(
                declared_patients=300,
                rounds=tuple(range(1, 21)),
                evaluations=1,
                noisy_counts={} if site in (evaluation_absent or {}) else dict.fromkeys(cells, 20.5),
                ledger=LedgerHead(size=24, root="00", note="note", ledger_key="key"),
            )
            for site in sites
        },
        model_sha256="00" * 32,
    )


def signed(study):
    return open_signed_study(sign_study(study, Ed25519PrivateKey.generate()))


@pytest.mark.parametrize("evaluation_absent", [{}, {"b": "away"}])
def test_whoever_has_the_evidence_and_the_study_works_out_the_same_again(evaluation_absent):
    by = signed(STUDY)
    evidence = evidence_of(by, run_of(STUDY, evaluation_absent=evaluation_absent))
    assert evidence_of(by, result_of(evidence)) == evidence
    assert Evidence.model_validate_json(evidence_bytes(evidence)) == evidence


def test_a_hospitals_own_figures_are_stated_only_where_the_protocol_asks_for_them():
    evaluation = STUDY.evaluation.model_copy(update={"each_site": False})
    study = STUDY.model_copy(update={"evaluation": evaluation})
    asked, not_asked = evidence_of(signed(STUDY), run_of(STUDY)), evidence_of(signed(study), run_of(study))
    assert all(site.figures is not None for site in asked.sites)
    assert all(site.figures is None for site in not_asked.sites)
    assert not_asked.pooled == asked.pooled


@pytest.mark.parametrize(
    ("absent", "evaluation_absent", "partial"),
    [({}, {}, False), ({"c": "not-approved"}, {}, True), ({}, {"b": "away"}, True)],
    ids=["all there", "one was missing from rounds", "one was missing from the evaluation"],
)
def test_a_run_without_a_site_is_partial(absent, evaluation_absent, partial):
    evidence = evidence_of(signed(STUDY), run_of(STUDY, absent, evaluation_absent))
    assert evidence.partial is partial
    assert evidence.participation.rounds[0].absent == absent
    assert evidence.participation.evaluation_absent == evaluation_absent


def test_a_site_that_did_not_evaluate_has_no_figures_and_adds_no_noise():
    evidence = evidence_of(signed(STUDY), run_of(STUDY, evaluation_absent={"b": "away"}))
    assert evidence.sites[1].figures is None
    assert evidence.pooled == evidence.sites[0].figures


def test_the_published_schema_is_that_of_the_evidence():
    published = Path(__file__).resolve().parents[2] / "docs" / "schemas" / "evidence.schema.json"
    assert published.read_text(encoding="utf-8") == evidence_schema()
    assert json.loads(published.read_text(encoding="utf-8"))["properties"]["format"]["const"] == "fedhealth/evidence/1"
