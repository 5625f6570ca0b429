"""A study that trains nothing, run by the coordinator over real gates: one release of each site, and its figures."""

from study_scene import Points, Scene, study_of

from fedhealth.coordinator.evidence import evidence_of, result_of
from fedhealth.learning.figures import EffectFigure
from fedhealth.learning.steps import STEPS
from fedhealth.study.signature import open_signed_study

# The scene's patients p0 to p59 are of age 0 to 59, and every other one is ill: here the arms, and the age an outcome.
TRIAL = study_of(
    task="efficacy",
    features=[{"kind": "category", "column": "id", "categories": ["nobody"]}],
    endpoint={
        "kind": "trial",
        "arm_column": "ill",
        "arms": [{"word": "0"}, {"word": "1"}],
        "outcomes": ["age"],
        "range": [0, 60],
        "unit": "years",
        "measures": "Age",
        "better": "lower",
    },
    model={"kind": "ancova"},
    training=None,
    evaluation={"held_out_fraction": 1, "too_wide": 0.5},
    privacy={"unit": "patient", "delta": 1e-4, "evaluation_epsilon": 10.0},
)


def scene(folder):
    sites = ("ward-a", "ward-b", "ward-c")
    return Scene(folder, TRIAL, sites, lying=dict.fromkeys(sites, STEPS["evaluate"]))


def test_a_trial_is_estimated_by_one_release_of_each_site(tmp_path):
    made = scene(tmp_path)
    evidence = made.run()
    made.close()
    (effect,) = [row.figure for row in evidence.pooled.rows if isinstance(row.figure, EffectFigure)]
    # Ages of the ill are 1 year above those of the others, at each site: the difference is 1 and its noise some years.
    assert abs(effect.estimate - 1) < 1.5 * effect.noise_half_width < 30
    assert effect.low < 0 < effect.high
    assert (evidence.rounds_planned, evidence.rounds_completed, evidence.partial) == (0, 0, False)
    assert [site.charges(TRIAL) for site in made.sites.values()] == [[0, 1]] * 3
    assert evidence_of(open_signed_study(made.signed), result_of(evidence)) == evidence


def test_it_goes_on_after_a_kill_with_the_same_release_and_the_same_charge(tmp_path):
    whole = scene(tmp_path / "whole")
    expected = whole.run()
    whole.close()
    made = scene(tmp_path / "killed")
    killed = Points(kill_when=lambda process, name: (process, name) == ("main", "after a frame to ward-b"))
    assert made.run(killed) is None
    for point in ("before keep_counts", "after keep_counts"):
        made.run(Points(kill_when=lambda process, name, point=point: (process, name) == ("main", point)))
    evidence = made.run()
    made.close()
    assert evidence.pooled == expected.pooled
    assert [site.charges(TRIAL) for site in made.sites.values()] == [[0, 1]] * 3
