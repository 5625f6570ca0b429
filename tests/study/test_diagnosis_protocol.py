"""What a protocol may say of classes, quantities and missing values, and what it may not."""

import pytest
from pydantic import ValidationError
from small_study import PROTOCOL, protocol

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.foresight import foresee
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import Study

CLASSES = {"kind": "classes", "column": "ill", "classes": ["a", "b", "c"], "outcome": "a kind"}
NUMBER = {"kind": "number", "column": "ill", "unit": "mg", "range": [0, 10], "outcome": "a dose"}
AGE, DOSE = PROTOCOL["features"]
EXCLUDING = {key: value for key, value in AGE.items() if key != "impute"} | {"missing": "exclude"}
SEX = {"kind": "category", "column": "sex", "categories": ["f", "m"]}

REFUSED = {
    "two classes": ({"endpoint": CLASSES | {"classes": ["a", "b"]}}, "at least 3 items"),
    "a class twice": ({"endpoint": CLASSES | {"classes": ["a", "b", "a"]}}, "repeat a word"),
    "a range downwards": ({"endpoint": NUMBER | {"range": [10, 0]}}, "the lower value first"),
    "a range of subnormal width": ({"endpoint": NUMBER | {"range": [0, 1e-310]}}, "narrower than a number can scale"),
    "a range without end": ({"endpoint": NUMBER | {"range": [-1e308, 1e308]}}, "the lower value first"),
    "no rule for a missing value": ({"features": [EXCLUDING | {"missing": "impute"}]}, "has no impute"),
    "two rules": ({"features": [EXCLUDING | {"impute": 3}]}, "wanted no impute"),
    "an indicator of what is never missing": ({"features": [EXCLUDING | {"missing_indicator": True}]}, "no indicator"),
    "the same of words": (
        {"features": [SEX | {"missing": "exclude", "missing_indicator": True}]},
        "wanted no indicator",
    ),
    "an impute out of range": ({"features": [AGE | {"impute": 101}]}, "within"),
    "scores of classes": ({"endpoint": CLASSES, "evaluation": {"table": 0.3, "scores": {"share": 0.7}}}, "yes or no"),
    "errors of yes or no": ({"evaluation": {"errors": {"share": 0.5}}}, "kind 'number'"),
    "no errors at all": ({"endpoint": NUMBER, "evaluation": {"errors": {"largest": 0}}}, "greater than 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    changes, words = REFUSED[case]
    if "features" in changes:
        with pytest.raises(ValidationError, match=words):
            Study.model_validate({**PROTOCOL, **changes})
        return
    endpoint = changes.get("endpoint", PROTOCOL["endpoint"])
    evaluation = {"held_out_fraction": 0.25, **changes.get("evaluation", {})}
    with pytest.raises(ValidationError, match=words):
        Study.model_validate({**PROTOCOL, "endpoint": endpoint, "evaluation": evaluation})


def diagnosis(endpoint, kind, hidden=(), **parts):
    return Study.model_validate({**PROTOCOL, "endpoint": endpoint, "model": {"kind": kind, "hidden": hidden}, **parts})


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [(CLASSES, "linear-regression"), (NUMBER, "logistic-regression"), (PROTOCOL["endpoint"], "linear-regression")],
)
def test_a_model_is_not_fitted_to_what_it_is_not_for(endpoint, kind):
    with pytest.raises(ConfigInvalid, match="cannot be fitted"):
        plan_study(diagnosis(endpoint, kind))


# Of 2 inputs: a layer has (inputs + 1) x outputs weights.
SIZES = {
    "logistic regression": (PROTOCOL["endpoint"], "logistic-regression", (), 3),
    "of three classes": (CLASSES, "logistic-regression", (), 9),
    "linear regression": (NUMBER, "linear-regression", (), 3),
    "network": (PROTOCOL["endpoint"], "mlp", (4,), 12 + 5),
    "network of classes": (CLASSES, "mlp", (4, 5), 12 + 25 + 18),
}


@pytest.mark.parametrize("case", SIZES)
def test_a_plan_has_as_many_weights_as_the_layers_have(case):
    endpoint, kind, hidden, size = SIZES[case]
    plan = plan_study(diagnosis(endpoint, kind, hidden))
    assert plan["train"].mechanism.dimension == plan["evaluate"].input_length == size


def test_a_signed_study_of_another_kind_is_the_same_when_it_is_read_again():
    for study in (diagnosis(CLASSES, "mlp", (4,)), diagnosis(NUMBER, "linear-regression")):
        again = Study.model_validate_json(study.model_dump_json())
        assert again == study and again.digest == study.digest


def test_a_rate_that_may_overshoot_is_named():
    # Two numbers and the bias: squares of at most 3 in all, so up to 2 / 3 nothing overshoots.
    steep = diagnosis(NUMBER, "linear-regression", training={**PROTOCOL["training"], "learning_rate": 0.7})
    gentle = diagnosis(NUMBER, "linear-regression", training={**PROTOCOL["training"], "learning_rate": 0.6})
    assert any("up to 0.67 it cannot" in warning for warning in foresee(steep).warnings)
    assert not any("overshoot" in warning for warning in foresee(gentle).warnings)
    assert not any("overshoot" in warning for warning in foresee(protocol()).warnings)


@pytest.mark.parametrize(("endpoint", "kind"), [(CLASSES, "mlp"), (NUMBER, "mlp")])
def test_what_to_expect_gets_better_with_more_patients(endpoint, kind):
    found = foresee(diagnosis(endpoint, kind, (3,)))
    widths = [line.half_width for line in found.sizes if line.half_width is not None]
    assert len(widths) > 3 and widths == sorted(widths, reverse=True)
    assert found.sizes[0].withheld and not found.sizes[-1].withheld
