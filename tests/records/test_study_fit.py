from pathlib import Path

import numpy as np
import pytest

from fedhealth.records.study_fit import find_giveaways, find_misfits
from fedhealth.records.table import Table
from fedhealth.study.protocol import Study

PROTOCOL = {
    "format": 1,
    "name": "heart",
    "title": "t",
    "task": "diagnosis",
    "purpose": "p",
    "legal_basis": "l",
    "data_set": "icu",
    "max_records_per_patient": 3,
    "features": [
        {"kind": "number", "column": "age", "unit": "years", "range": [20, 100], "impute": 60, "missing_values": [-9]},
        {"kind": "category", "column": "sex", "categories": ["female", "male"]},
    ],
    "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0.5, "positive": "ill"},
    "model": {"kind": "logistic-regression"},
    "training": {"rounds": 3, "learning_rate": 1.0, "l2_clip_norm": 1.0},
    "evaluation": {"held_out_fraction": 0.25},
    "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 1.0, "evaluation_epsilon": 1.0},
}
STUDY = Study.model_validate(PROTOCOL)
COLUMNS = ("id", "age", "sex", "ill")


def table(rows, columns=COLUMNS):
    return Table(Path("data.csv"), columns, tuple(enumerate(map(tuple, rows), 2)))


def ordinary(count=60):
    """Rows in which age and sex say nothing of the outcome: each of the 12 combinations is ill as often as not."""
    return [(f"p{n}", str(40 + n // 2 % 3), ("female", "male")[n // 6 % 2], str(n % 2)) for n in range(count)]


def test_a_table_as_the_study_wants_it_has_no_misfit():
    assert find_misfits(table(ordinary()), STUDY) == ()


MISFITS = {
    "a column that is missing": (["p", "50", "1"], ("id", "age", "ill"), "error", "sex", "the table lacks it"),
    "text for a number": (["p", "old", "male", "1"], COLUMNS, "error", "age", "wants numbers"),
    "text for the outcome": (["p", "50", "male", "yes"], COLUMNS, "error", "ill", "wants numbers"),
    "another spelling": (["p", "50", " MALE", "1"], COLUMNS, "warning", "sex", "'male' is spelled otherwise"),
    "an unknown word": (["p", "50", "other", "1"], COLUMNS, "warning", "sex", "does not know"),
    "a value out of range": (
        ["p", "101", "male", "1"],
        COLUMNS,
        "warning",
        "age",
        "outside the public range 20 to 100",
    ),
    "nothing measured": (["p", "-9", "male", "1"], COLUMNS, "warning", "age", "nothing is measured"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_told_with_its_column(case):
    row, columns, level, column, words = MISFITS[case]
    others = ordinary() if columns == COLUMNS and "nothing" not in case else []
    (problem,) = find_misfits(table([row, *others], columns), STUDY)
    assert (problem.level, problem.column) == (level, column) and words in problem.what
    assert problem.rows == (() if "missing" in case or "nothing" in case else (2,))


def test_no_value_of_a_patient_is_shown():
    said = "".join(each.what for each in find_misfits(table([("Sicca", "4711", "Zwitter", "0815")]), STUDY))
    assert not [word for word in ("Sicca", "4711", "Zwitter", "0815") if word in said]


def test_words_of_the_endpoint_and_of_the_cohort_are_compared_too():
    changes = {
        "endpoint": {
            "kind": "category",
            "column": "ill",
            "positive_categories": ["yes"],
            "negative_categories": ["no"],
            "positive": "ill",
        },
        "include": [{"kind": "category", "column": "ward", "any_of": ["icu"]}],
    }
    study = Study.model_validate(PROTOCOL | changes)
    rows = [("p", "50", "male", "Yes", "ICU"), ("q", "50", "male", "no", "icu")]
    found = find_misfits(table(rows, (*COLUMNS, "ward")), study)
    assert {each.column: each.rows for each in found} == {"ill": (2,), "ward": (2,)}


def with_feature(cells, rows=None):
    """The ordinary table with other ages; a cell may look at the outcome."""
    return table([(p, cells(int(ill), n), sex, ill) for n, (p, _, sex, ill) in enumerate(rows or ordinary())])


GIVEAWAYS = {
    "a number above 60 in the ill alone": (lambda ill, n: str(30 + 40 * ill + n % 20 + n / 100), "its value"),
    "a number below 60 in the ill alone": (lambda ill, n: str(70 - 40 * ill + n % 20 + n / 100), "its value"),
    "codes of the diagnosis, in no order": (lambda ill, n: str([41, 43][n % 4 // 2] + ill), "its value"),
    "measured in the ill alone": (lambda ill, n: str(40 + n % 7) if ill else "", "whether it was measured"),
    "the code for not measured in the ill alone": (lambda ill, n: "-9" if ill else "50", "whether it was measured"),
}


@pytest.mark.parametrize("case", GIVEAWAYS)
def test_a_number_that_tells_the_outcome_alone_is_found(case):
    cells, by = GIVEAWAYS[case]
    (found,) = find_giveaways(with_feature(cells), STUDY)
    assert (found.column, found.by, found.area) == ("age", by, 1.0)
    assert str(found) in [each.what for each in find_misfits(with_feature(cells), STUDY)]


def test_a_word_that_tells_the_outcome_alone_is_found():
    rows = [(p, age, ("female", "male")[int(ill)], ill) for p, age, _, ill in ordinary()]
    assert [each.column for each in find_giveaways(table(rows), STUDY)] == ["sex"]
    rows = [(p, age, "male" if int(ill) else "", ill) for p, age, _, ill in ordinary()]
    assert [each.column for each in find_giveaways(table(rows), STUDY)] == ["sex"]


def test_a_strong_feature_is_no_giveaway():
    # The ill are N(60, 5), the healthy N(50, 5): the area is Phi(10 / (5 * sqrt 2)) = 0.92.
    normal = np.random.default_rng(0).normal(0, 5, 400)
    assert find_giveaways(with_feature(lambda ill, n: f"{50 + 10 * ill + normal[n]:.3f}", ordinary(400)), STUDY) == ()


def test_of_few_records_nothing_is_said():
    # 8 and 7 of either outcome; one more of the latter makes it 8 and 8.
    tells = GIVEAWAYS["a number above 60 in the ill alone"][0]
    assert find_giveaways(with_feature(tells, ordinary(15)), STUDY) == ()
    assert len(find_giveaways(with_feature(tells, ordinary(16)), STUDY)) == 1


def test_records_outside_the_cohort_and_without_an_outcome_do_not_count():
    tells = GIVEAWAYS["a number above 60 in the ill alone"][0]
    study = Study.model_validate(PROTOCOL | {"include": [{"kind": "category", "column": "ward", "any_of": ["icu"]}]})
    inside = [(*row, "icu") for _, row in with_feature(tells).rows]
    outside = [(p, "71" if ill == "0" else "31", sex, ill, "er") for p, _, sex, ill in ordinary()]
    nobody = [(p, "71", sex, "") for p, _, sex, _ in ordinary()]
    both = table([*inside, *outside, *[(*row, "icu") for row in nobody]], (*COLUMNS, "ward"))
    assert [each.column for each in find_giveaways(both, study)] == ["age"]
    assert find_giveaways(both, STUDY) == ()


def test_a_table_without_the_endpoint_has_no_giveaway():
    assert find_giveaways(table([("p", "50", "male")], COLUMNS[:3]), STUDY) == ()
