"""docs/policy.md names every rule of a policy and every code of a refusal, and its example is a policy."""

import re
import tomllib
from pathlib import Path

from fedhealth.errors import RefusalCode
from fedhealth.policy.rules import DataSetBudget, Policy

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")


def test_every_rule_is_explained():
    assert {key for key in {*Policy.model_fields, *DataSetBudget.model_fields} if f"`{key}`" not in PAGE} == set()


def test_a_rule_that_must_be_said_is_called_so():
    for line in re.findall(r"^\| `(\w+)`.*\| (.*) \|$", PAGE, re.MULTILINE):
        name, otherwise = line
        if name in Policy.model_fields:
            assert Policy.model_fields[name].is_required() == (otherwise == "must be said"), name


def test_every_code_of_a_refusal_is_explained():
    assert {code.value for code in RefusalCode if f"| `{code.value}` |" not in PAGE} == set()


def test_the_example_is_a_policy():
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert Policy.model_validate(tomllib.loads(example)).researchers == ("alice",)
