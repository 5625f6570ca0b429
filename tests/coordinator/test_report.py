import re
from dataclasses import replace

import pytest

from fedhealth.coordinator.evidence import (
    LedgerHead,
    Participation,
    RunResult,
    SiteResult,
    Span,
    evidence_of,
    result_of,
)
from fedhealth.coordinator.report import Reference, Score, SiteReference, render_report
from fedhealth.coordinator.wording import partial_words
from fedhealth.errors import FedHealthError
from fedhealth.learning.binary_cells import CONFUSION_CELLS, score_cells, subgroup_cell
from fedhealth.study.protocol import Study
from fedhealth.study.signature import SignedStudy

NOISY_COUNTS = {
    "cleveland": (25.3, 6.1, 31.0, 9.2),
    "switzerland": (6.0, 1.4, 0.7, 2.9),  # 11 patients: no 95 % interval is within 15 points
}
MODEL_SHA256 = "ab" * 32
TITLES = {"cleveland": "Cleveland Clinic", "switzerland": "Zürich & <Basel>"}


@pytest.fixture(scope="module")
def study():
    number = {"kind": "number", "column": "age", "unit": "years", "range": (30, 80), "impute": 55}
    return Study.model_validate(
        {
            "format": 1,
            "name": "heart",
            "title": "Diagnosis of heart disease",
            "task": "diagnosis",
            "purpose": "Estimate the chance of heart disease.",
            "legal_basis": "Consent.",
            "data_set": "heart",
            "max_records_per_patient": 1,
            "features": [number],
            "endpoint": {"kind": "binary", "column": "num", "positive_above": 0, "positive": "a vessel is narrowed"},
            "model": {"kind": "logistic-regression"},
            "training": {"rounds": 20, "spare_rounds": 0, "learning_rate": 1.0, "l2_clip_norm": 1.0},
            "evaluation": {"held_out_fraction": 0.25, "each_site": True, "table": 1.0, "scores": None},
            "privacy": {"unit": "patient", "delta": 1e-4, "training_epsilon": 2.0, "evaluation_epsilon": 1.0},
        }
    )


@pytest.fixture(scope="module")
def evidence(study):
    return make_evidence(study, NOISY_COUNTS)


def make_evidence(study, noisy_counts):
    return evidence_of(
        SignedStudy(study=study, researcher="ab" * 32, signature="cd" * 64),
        RunResult(
            software="fedhealth 0.1.0",
            federation="four-hospitals",
            started="2025-11-22T08:00:00Z",
            finished="2025-11-22T08:05:00Z",
            rounds_completed=20,
            participation=Participation(
                sites=("cleveland", "switzerland"),
                rounds=(
                    Span(first=1, last=7),
                    Span(first=8, last=8, absent={"switzerland": "busy"}),
                    Span(first=9, last=20),
                ),
            ),
            sites={
                site: SiteResult(
                    declared_patients=300,
                    rounds=tuple(number for number in range(1, 21) if site == "cleveland" or number != 8),
                    evaluations=1,
                    noisy_counts=dict(zip(CONFUSION_CELLS, cells, strict=True)),
                    ledger=LedgerHead(size=24, root=f"root-of-{site}", note="note", ledger_key=f"{site}+ledger"),
                )
                for site, cells in noisy_counts.items()
            },
            model_sha256=MODEL_SHA256,
        ),
    )


def make_reference(study):
    def site(name, alone, pooled, federated):
        return SiteReference(
            site=name,
            training_patients=8811,
            held_out_patients=8822,
            held_out_ill=8833,
            local_alone=Score(accuracy=alone, auc=0.9123),
            local_alone_pooled=Score(accuracy=pooled, auc=0.9234),
            federated=Score(accuracy=federated, auc=None),
        )

    return Reference(
        study=study.digest,
        model_sha256=MODEL_SHA256,
        sites=(site("cleveland", 0.912, 0.923, 0.934), site("switzerland", 0.945, 0.956, 0.967)),
        federated=Score(accuracy=0.978, auc=0.9567),
        pooled_without_privacy=Score(accuracy=0.989, auc=0.9678),
    )


# What of `make_reference` a reader would see.
RAW = (
    "8811",
    "8822",
    "8833",
    "0.91",
    "0.92",
    "0.96",
    "0.97",
    *(f"{n}\u00a0%" for n in (91, 92, 93, 94, 96, 97, 98, 99)),
)


@pytest.mark.parametrize("with_reference", [False, True])
def test_page_loads_nothing_and_runs_nothing(study, evidence, with_reference):
    page = render_report(evidence, study, TITLES, make_reference(study) if with_reference else None)
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert "<?xml" not in page
    assert not re.search(r"\ssrc\s*=|srcset|\son\w+\s*=", page)
    assert not re.search(r"url\((?!#)", page)
    assert all(target.startswith("#") for target in re.findall(r"href\s*=\s*[\"']([^\"']*)", page))
    assert page.count("<svg") == (2 if with_reference else 1)


@pytest.mark.parametrize("with_reference", [False, True])
def test_ids_in_page_are_unique_and_every_mark_exists(study, evidence, with_reference):
    page = render_report(evidence, study, TITLES, make_reference(study) if with_reference else None)
    ids = re.findall(r'\sid="([^"]*)"', page)
    used = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page))
    assert {a or b for a, b in used} <= set(ids)
    # A mark or clip path that both charts define is named by a digest of what it draws.
    assert [name for name in set(ids) if ids.count(name) > 1 and not re.fullmatch(r"[mp][0-9a-f]{10}", name)] == []


def test_equal_evidence_gives_equal_bytes(study, evidence):
    assert render_report(evidence, study, TITLES) == render_report(evidence, study, TITLES)


def test_too_wide_figure_is_withheld_in_chart_and_table_and_has_no_number(study, evidence):
    page = render_report(evidence, study, TITLES)
    assert evidence.sites[1].figures.accuracy.estimate is None
    chart = page[page.index("<svg") : page.index("</svg>")]
    [row] = re.findall(r"<tr><th[^>]*>Zürich[^\n]*</th>\s*<td data-name=\"Accuracy\".*?</tr>", page, flags=re.DOTALL)
    assert row.count("too few patients to say") == 3
    assert "%" not in row
    assert "Zürich &amp; &lt;Basel&gt;: too few patients to say" in chart
    assert ">too few patients to say</text>" in chart


def test_shows_a_figure_with_its_interval(study, evidence):
    figure = evidence.sites[0].figures.accuracy
    words = f"{100 * figure.estimate:.0f}\u00a0% ({100 * figure.low:.0f} to {100 * figure.high:.0f})"
    assert render_report(evidence, study, TITLES).count(words) == 3  # the chart, its description, the table


def test_answer_says_so_when_all_hospitals_together_are_too_few(study):
    page = render_report(make_evidence(study, {"switzerland": NOISY_COUNTS["switzerland"]}), study, TITLES)
    assert "<strong>too few patients to say</strong> how often the model is right" in page
    assert "of the time" not in page
    assert "would reach further than 15 percentage points to each side" in page


def test_privacy_rounds_and_heads_are_shown_per_hospital(study, evidence):
    page = render_report(evidence, study, TITLES)
    assert page.count(">2.00 (20&nbsp;releases)<") == 1
    assert page.count("(19&nbsp;releases)<") == 1
    assert page.count(">1.00 (1&nbsp;release)<") == 2
    # (e^2 + 0.0001) / (1 + e^2) = 7.389156 / 8.389056 = 0.8808, rounded up.
    assert page.count("89 in 100") == 1
    assert "1 to 20" in page
    assert "1 to 7, 9 to 20" in page
    assert "19 of 20" in page
    for text in ("root-of-cleveland", "switzerland+ledger", study.digest, MODEL_SHA256, "fedhealth audit verify PATH"):
        assert text in page


def test_epsilon_is_rounded_up(study, evidence):
    site = evidence.sites[0].model_copy(update={"epsilon": 1.2301})
    page = render_report(evidence.model_copy(update={"sites": (site,)}), study, TITLES)
    assert ">1.24</td>" in page


def test_text_from_outside_is_escaped(study, evidence):
    titles = {"cleveland": "<script>alert(1)</script>$x$", "switzerland": "</svg><b onload=x>"}
    page = render_report(evidence, study, titles, make_reference(study))
    assert "<script" not in page
    assert "<b " not in page
    assert page.count("</svg>") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$x$" in page


def test_without_reference_there_is_no_section_and_no_raw_number(study, evidence):
    page = render_report(evidence, study, TITLES)
    assert "Only because" not in page
    assert "AUC" not in page
    visible = re.sub(r"<svg.*?<desc|<style.*?</style>", "", page, flags=re.DOTALL)
    assert [number for number in RAW if number in visible] == []


def test_with_reference_raw_numbers_are_in_the_marked_section_only(study, evidence):
    plain = render_report(evidence, study, TITLES)
    page = render_report(evidence, study, TITLES, make_reference(study))
    before, section = page.split('<section class="public"')
    assert ">Only because these data are public</h2>" in section
    assert "A real federation could never show" in section
    assert [number for number in RAW if number not in section] == []
    main = before[before.index("<main>") :]
    assert main.strip() == plain[plain.index("<main>") : plain.index("</main>")].strip()


def test_refuses_evidence_of_another_study(study, evidence):
    other = evidence.model_copy(update={"study": {**evidence.study, "digest": "00" * 32}})
    with pytest.raises(FedHealthError, match="another study"):
        render_report(other, study, TITLES)


@pytest.mark.parametrize("part", ["study", "model_sha256"])
def test_refuses_reference_of_another_study_or_model(study, evidence, part):
    reference = make_reference(study).model_copy(update={part: "00" * 32})
    with pytest.raises(FedHealthError, match="another study or another model"):
        render_report(evidence, study, TITLES, reference)


WORDS = ("f", "m")


@pytest.fixture(scope="module")
def full_study(study):
    """Return a study that asks for everything, of so many patients that nearly everything can be stated."""
    sex = {"kind": "category", "column": "sex", "categories": WORDS, "missing": "exclude"}
    asked = {
        "held_out_fraction": 0.25,
        "table": 0.4,
        "scores": {"share": 0.4, "bins": 4},
        "subgroups": {"share": 0.2, "columns": ["sex"]},
    }
    change = {"features": [*study.features, sex], "evaluation": asked, "include": [NUMBER, WORD]}
    return Study.model_validate(study.model_dump() | change)


NUMBER = {"kind": "number", "column": "age", "range": (18, 90)}
WORD = {"kind": "category", "column": "ward", "any_of": ("a", "b")}


def full_evidence(study, groups=(60, 8, 50, 10)):
    table = (800.0, 200.0, 800.0, 200.0)
    # Ill, then well patients, from the lowest chance to the highest.
    scores = (50.0, 150.0, 300.0, 500.0, 500.0, 300.0, 150.0, 50.0)
    cells = [subgroup_cell("sex", word, cell) for word in WORDS for cell in CONFUSION_CELLS]
    counts = dict(zip(CONFUSION_CELLS, table, strict=True)) | dict(zip(score_cells(4), scores, strict=True))
    counts |= dict(zip(cells, (*(10.0 * count for count in groups), 1.2, -0.7, 3.0, 0.4), strict=True))
    ledger = LedgerHead(size=24, root="root", note="note", ledger_key="key")
    site = SiteResult(
        declared_patients=8000, rounds=tuple(range(1, 21)), evaluations=1, noisy_counts=counts, ledger=ledger
    )
    run = RunResult(
        software="fedhealth 0.1.0",
        federation="one-hospital",
        started="2025-11-22T08:00:00Z",
        finished="2025-11-22T08:05:00Z",
        rounds_completed=20,
        participation=Participation(sites=("cleveland",), rounds=(Span(first=1, last=20),)),
        sites={"cleveland": site},
        model_sha256=MODEL_SHA256,
    )
    return evidence_of(SignedStudy(study=study, researcher="ab" * 32, signature="cd" * 64), run)


def test_every_figure_of_the_scores_is_drawn_and_written(full_study):
    evidence = full_evidence(full_study)
    page = render_report(evidence, full_study, TITLES)
    scores = evidence.pooled.scores
    assert re.findall(r'<title id="([a-z]*)-title">', page) == [
        "accuracy",
        "roc",
        "calibration",
        "decision",
        "subgroups",
    ]
    for figure in (scores.auc, scores.brier, scores.calibration_in_the_large):
        assert f"{figure.estimate:.2f} ({figure.low:.2f} to {figure.high:.2f})".replace("-", "\u2212") in page
        assert f">{figure.binning:.2f}</td>" in page
    assert f"{100 * scores.auc.estimate:.0f} of 100 pairs" in page
    worth = scores.net_benefit[0].model
    assert f"{100 * worth.estimate:.0f} ({100 * worth.low:.0f} to {100 * worth.high:.0f})" in page
    for word in ("age from 18 to 90", "ward: a or b; sex: not missing.", "25\u00a0%", "sex: f"):
        assert word in page


def test_a_group_of_too_few_patients_has_no_number_anywhere(full_study):
    page = render_report(full_evidence(full_study), full_study, TITLES)
    [row] = re.findall(r'<tr><th scope="row">sex: m</th>.*?</tr>', page, flags=re.DOTALL)
    assert row.count("too few patients to say") == 3
    assert not re.search(r"\d", row)
    assert "sex: m: too few patients to say" in page  # what the drawing says in words


def test_figures_of_one_hospital_are_not_shown_unless_the_protocol_asks(full_study):
    page = render_report(full_evidence(full_study), full_study, TITLES)
    assert "does not ask for figures of each hospital" in page
    [chart] = re.findall(r'<desc id="accuracy-desc">(.*?)</desc>', page)
    assert "Cleveland" not in chart


def test_a_partial_result_says_so_first_and_names_who_was_absent_and_why(study, evidence):
    page = render_report(evidence, study, TITLES)
    assert evidence.partial
    banner = page[: page.index("<main>")]
    assert "Partial result." in banner
    assert "Zürich &amp; &lt;Basel&gt; (round 8: busy)" in banner
    assert page.index("Partial result.") < page.index("What was asked")
    assert '<td data-name="Was absent">round 8: busy</td>' in page


def test_a_hospital_that_did_not_judge_the_model_is_not_counted_among_all(full_study):
    complete = full_evidence(full_study)
    participation = complete.participation.model_copy(
        update={"sites": ("cleveland", "switzerland"), "evaluation_absent": {"switzerland": "away"}}
    )
    signed = SignedStudy(study=full_study, researcher="ab" * 32, signature="cd" * 64)
    evidence = evidence_of(signed, replace(result_of(complete), participation=participation))
    page = render_report(evidence, full_study, TITLES)
    assert "All hospitals together" not in page
    assert "The hospitals that judged it, together" in page
    assert "evaluation: away" in page


def test_the_line_of_a_partial_result_names_everybody_who_was_absent(full_study, evidence):
    assert partial_words(evidence) == "PARTIAL RESULT, without switzerland (round 8: busy)"
    assert partial_words(full_evidence(full_study)) == ""


def test_a_complete_result_is_not_called_partial(full_study):
    assert "artial" not in render_report(full_evidence(full_study), full_study, TITLES)


def test_a_test_run_says_first_that_nothing_is_private(study, evidence):
    known = evidence.model_copy(update={"unsafe_test_sites": ("cleveland",)})
    page = render_report(known, study, TITLES)
    assert "nothing here is private" in page[: page.index("<main>")]
    assert "nothing here is private" not in render_report(evidence, study, TITLES)


def test_drawings_take_their_colours_from_the_page_so_that_they_can_be_read_in_the_dark(full_study):
    page = render_report(full_evidence(full_study), full_study, TITLES)
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        assert not re.search(r"(?:stroke|fill): #(?!000000)", drawing)
    assert "prefers-color-scheme: dark" in page
