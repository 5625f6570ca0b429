"""A drafted protocol: valid as it stands, short, and honest about what a person must still say."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.draft import EXAMPLE, TableRoles, columns_of, draft_protocol
from fedhealth.learning.foresight import foresee
from fedhealth.learning.open_texts import refuse_open_texts
from fedhealth.learning.plan import plan_study
from fedhealth.records.table import read_table
from fedhealth.study.protocol import Study

HEADER = "patient,hospital,age,sbp,sex,note,constant,died\n"
ROWS = "".join(f"p{n // 2},{'ns'[n % 2]},{20 + n},{100 + n / 4},{'fm'[n % 2]},note {n},1,{n % 2}\n" for n in range(60))


def table(tmp_path, text=HEADER + ROWS):
    file = tmp_path / "table.csv"
    file.write_text(text, encoding="utf-8")
    return read_table(file, strict=True)


def drafted(columns):
    return Study.model_validate(tomllib.loads(draft_protocol("sepsis", "diagnosis", "ward", columns)))


def test_the_example_is_a_study_and_short():
    text = draft_protocol("sepsis", "diagnosis", "ward", EXAMPLE)
    study = Study.model_validate(tomllib.loads(text))
    assert study.name == "sepsis" and study.data_set == "ward"
    beside = text[: text.index("[[features]]")].splitlines()
    assert len([line for line in beside if line.strip() and not line.startswith("#")]) <= 40


def test_features_come_from_the_table_and_what_is_none_is_said(tmp_path):
    columns = columns_of(table(tmp_path), TableRoles("died", patient="patient", ignored=["hospital"]))
    study = drafted(columns)
    assert [(f.kind, f.column) for f in study.features] == [("number", "age"), ("number", "sbp"), ("category", "sex")]
    # Ages 20 to 79, pressures 100 to 114.75: outwards to one figure of their distance, 10 both.
    assert study.features[0].range == (20, 80) and study.features[1].range == (100, 120)
    assert study.features[2].categories == ("f", "m")
    assert columns.left_out == ("note (60 different words)", "constant (always the same)")
    assert study.max_records_per_patient == 2
    assert study.endpoint.positive_above == 0


def test_a_draft_can_be_signed_only_once_a_person_has_said_the_units(tmp_path):
    study = drafted(columns_of(table(tmp_path), TableRoles("died", ignored=["patient", "hospital", "note"])))
    with pytest.raises(ConfigInvalid, match="the unit of age, the unit of sbp"):
        refuse_open_texts(study)


ENDPOINTS = {
    "yes and no": (["yes", "no"], "", ("yes",), ("no",)),
    "a word that is named": (["alive", "gone", "alive"], "gone", ("gone",), ("alive",)),
    "several words": (["mild", "severe", "none"], "severe", ("severe",), ("mild", "none")),
}


@pytest.mark.parametrize("case", ENDPOINTS)
def test_an_endpoint_of_words_says_which_mean_yes(tmp_path, case):
    words, positive, yes, no = ENDPOINTS[case]
    text = "x,y\n" + "".join(f"{n},{word}\n" for n, word in enumerate(words * 2))
    endpoint = drafted(columns_of(table(tmp_path, text), TableRoles("y", positive))).endpoint
    assert (endpoint.positive_categories, endpoint.negative_categories) == (yes, no)


@pytest.mark.parametrize("positive, above", [("", None), ("2", 2), ("1.5", 1.5)])
def test_an_endpoint_of_many_numbers_needs_to_be_told_above_what_it_is_yes(tmp_path, positive, above):
    made = table(tmp_path, "x,y\n" + "".join(f"{n},{n % 4}\n" for n in range(12)))
    if above is None:
        with pytest.raises(ConfigInvalid, match="--positive VALUE"):
            columns_of(made, TableRoles("y", positive))
    else:
        assert drafted(columns_of(made, TableRoles("y", positive))).endpoint.positive_above == above


@pytest.mark.parametrize("words", [["alive", "gone"], ["a", ""], [""]])
def test_an_endpoint_that_nobody_can_read_is_refused(tmp_path, words):
    made = table(tmp_path, "x,y\n" + "".join(f"{n},{word}\n" for n, word in enumerate(words * 3)))
    with pytest.raises(ConfigInvalid, match="nobody can tell which values of 'y' mean yes"):
        columns_of(made, TableRoles("y"))


def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigInvalid, match="Did you mean 'died'"):
        columns_of(table(tmp_path), TableRoles("dead"))


CELLS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**12), 10**12).map(str),
    st.text(st.characters(codec="utf-8", exclude_characters='"\r\n,\0', exclude_categories=["Cs", "Cc"]), max_size=30),
    st.just(""),
)


@settings(max_examples=150, deadline=None)
@given(cells=st.lists(CELLS, min_size=1, max_size=12), names=st.tuples(CELLS, CELLS))
def test_whatever_a_table_holds_the_draft_is_a_study_or_a_clear_refusal(tmp_path_factory, cells, names):
    folder = tmp_path_factory.mktemp("table")
    rows = "".join(f'"{cell}",{n},{n % 2}\n' for n, cell in enumerate(cells * 4))
    try:
        made = table(folder, f'"{names[0]}",age,y\n{rows}')
        columns = columns_of(made, TableRoles("y"))
    except Exception as error:
        assert type(error).__name__ in ("ConfigInvalid", "DataUnusable"), error
        return
    try:
        drafted(columns)
    except ValueError as error:  # a header or a word that a protocol does not take
        assert "String should have" in str(error) or "wider than a number" in str(error), error


KINDS = {
    "words that nobody said more of": (["mild", "severe", "none"] * 20, None, "classes"),
    "codes, by request": ([str(n % 5) for n in range(60)], "classes", "classes"),
    "many numbers": ([str(90 + n) for n in range(60)], None, "number"),
    "few numbers, by request": ([str(n % 5) for n in range(60)], "number", "number"),
    "two words, by request": (["alive", "gone"] * 30, "classes", None),
    "words as a quantity": (["mild", "severe", "none"] * 20, "number", None),
}


@pytest.mark.parametrize("case", KINDS)
def test_classes_and_quantities_are_drafted_where_they_are_plain_or_asked_for(tmp_path, case):
    values, asked, kind = KINDS[case]
    made = table(tmp_path, "x,age,y\n" + "".join(f"{n % 7},{20 + n},{value}\n" for n, value in enumerate(values)))
    roles = TableRoles("y", kind=asked)
    if kind is None:
        with pytest.raises(ConfigInvalid, match="--kind number"):
            columns_of(made, roles)
        return
    study = drafted(columns_of(made, roles))
    assert study.endpoint.kind == kind
    plan_study(study)
    said = foresee(study).warnings
    assert any("the outcome" in warning for warning in said) and not any("overshoot" in warning for warning in said)
    if kind == "number":
        assert study.model.kind == "linear-regression" and "the unit of y" in said[0]
        low, high = study.endpoint.range
        assert low <= float(min(values, key=float)) and high >= float(max(values, key=float))
    else:
        assert study.endpoint.classes == tuple(sorted(set(values)))
