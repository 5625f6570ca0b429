from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedhealth.errors import ConfigInvalid, PolicyForbids
from fedhealth.policy.rules import Policy, check_policy, check_year, load_policy
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.entries import Account, Approved, Created, Withdrawn
from fedhealth.privacy.mu_squared import MuSquaredBudget, gaussian_cost
from fedhealth.signing import public_key_hex
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study, sign_study
from fedhealth.table_source import TableSource

ADA = Ed25519PrivateKey.from_private_bytes(bytes(32))
EVE = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
PINNED = {"ada": public_key_hex(ADA.public_key()), "eve": public_key_hex(EVE.public_key())}
POLICY = {
    "tasks": ["diagnosis"],
    "purposes": ["scientific-research"],
    "researchers": ["ada"],
    "min_patients_a_side": 5,
    "max_epsilon_a_study": 2.0,
    "budget": {"icu": {"epsilon": 3.0, "delta": 1e-5}},
}
STUDY = {
    "format": 1,
    "name": "heart",
    "title": "t",
    "task": "diagnosis",
    "purpose": "p",
    "legal_basis": "l",
    "data_set": "icu",
    "max_records_per_patient": 1,
    "features": [{"kind": "category", "column": "sex", "categories": ["f"]}],
    "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0.5, "positive": "ill"},
    "model": {"kind": "logistic-regression"},
    "training": {"rounds": 3, "learning_rate": 1.0, "l2_clip_norm": 1.0},
    "evaluation": {"held_out_fraction": 0.25},
    "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 2.0, "evaluation_epsilon": 1.0},
}


def check(policy=None, study=None, key=ADA, pinned=PINNED):
    signed = open_signed_study(sign_study(Study.model_validate(STUDY | (study or {})), key))
    check_policy(Policy.model_validate(POLICY | (policy or {})), signed, pinned)


def privacy(**changes):
    return {"privacy": STUDY["privacy"] | changes}


SITES_OF_100 = {"min_declared_patients": 100}

ALLOWED = {
    "as agreed": {},
    "exactly the most": {"study": privacy(training_epsilon=2.0, evaluation_epsilon=2.0)},
    "it asks for sites just as large": {"policy": {"min_declared_patients": 100}, "study": SITES_OF_100},
    "another researcher of the list": {"policy": {"researchers": ["ada", "eve"]}, "key": EVE},
    "a name of the list that is not pinned": {"policy": {"researchers": ["nobody", "ada"]}},
}


@pytest.mark.parametrize("case", ALLOWED)
def test_allows_a_study(case):
    check(**ALLOWED[case])


REFUSED = {
    "no task is allowed": ({"policy": {"tasks": []}}, "tasks"),
    "no purpose is allowed": ({"policy": {"purposes": []}}, "purposes"),
    "another purpose": ({"policy": {"purposes": ["public-health"]}}, "purposes"),
    "no researcher is allowed": ({"policy": {"researchers": []}}, "researchers"),
    "the researcher is pinned and not in the list": ({"key": EVE}, "researchers"),
    "the researcher is in the list and not pinned": ({"pinned": {}}, "researchers"),
    "another key is pinned under the name": ({"pinned": {"ada": PINNED["eve"]}}, "researchers"),
    "training asks too much": ({"study": privacy(training_epsilon=2.0001)}, "max_epsilon_a_study"),
    "evaluation asks too much": ({"study": privacy(evaluation_epsilon=3.0)}, "max_epsilon_a_study"),
    "it admits smaller sites": (
        {"policy": {"min_declared_patients": 101}, "study": SITES_OF_100},
        "min_declared_patients",
    ),
    "it says nothing of sites": ({"policy": {"min_declared_patients": 2}}, "min_declared_patients"),
    "no data set has a budget": ({"policy": {"budget": {}}}, "budget"),
    "another data set is asked for": ({"study": {"data_set": "eye"}}, "budget"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_a_study_and_names_the_rule(case):
    arguments, rule = REFUSED[case]
    with pytest.raises(PolicyForbids, match=rf"rule '{rule}'"):
        check(**arguments)


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": ["anything"]},
        {"max_epsilon_a_study": 0.0},
        {"max_epsilon_a_study": float("nan")},
        {"max_epsilon_a_study": float("inf")},
        {"min_patients_a_side": 0},
        {"budget": {"icu": {"epsilon": 0.0, "delta": 1e-5}}},
        {"budget": {"icu": {"epsilon": 1.0, "delta": float("nan")}}},
        {"budget": {"ICU ward": {"epsilon": 1.0, "delta": 1e-5}}},
        {"researchers": ["Ada Lovelace"]},
        {"allow_all": True},
    ],
)
def test_a_policy_that_says_nothing_certain_does_not_exist(change):
    with pytest.raises(ValidationError):
        Policy.model_validate(POLICY | change)


# 2026-03-28 23:30 UTC is 00:30 in Paris; a day later, after the change of the clocks, 22:30 UTC is.
BEFORE, AFTER = (
    int(datetime(2026, 3, day, hour, 30, tzinfo=UTC).timestamp() * 1000) for day, hour in ((28, 23), (29, 22))
)
HOURS = {
    "all hours, as nothing is said": ({}, BEFORE, True),
    "the hour of UTC": ({"hours": [23]}, BEFORE, True),
    "an hour before": ({"hours": [22]}, BEFORE, False),
    "an hour after": ({"hours": [0]}, BEFORE, False),
    "one of several": ({"hours": [1, 23, 0]}, BEFORE, True),
    "an empty list": ({"hours": []}, BEFORE, False),
    "the hour of the hospital": ({"hours": [0], "time_zone": "Europe/Paris"}, BEFORE, True),
    "the hour of UTC elsewhere": ({"hours": [23], "time_zone": "Europe/Paris"}, BEFORE, False),
    "the hour of the hospital in summer": ({"hours": [0], "time_zone": "Europe/Paris"}, AFTER, True),
}


@pytest.mark.parametrize(("rules", "at", "open_"), HOURS.values(), ids=HOURS)
def test_releases_are_computed_in_the_hours_that_are_named(rules, at, open_):
    assert Policy.model_validate(POLICY | rules).allows_now(at) is open_


STRANGE = [
    {"hours": [24]},
    {"hours": [-1]},
    {"hours": [1.5]},
    {"time_zone": "Europe/Atlantis"},
    {"time_zone": "../etc"},
]


@pytest.mark.parametrize(
    "rules", [*STRANGE, {"approvals_needed": 3}, {"approvals_needed": 0}, {"max_epsilon_a_year": 0}]
)
def test_rules_that_mean_nothing_are_refused(rules):
    with pytest.raises(ValidationError):
        Policy.model_validate(POLICY | rules)


# What may be approved in a year. Each approval costs each side one full-batch release of noise multiplier 4; n of them
# have mu = sqrt(n) / 4. Dong, Roth and Su 2022, Corollary 2.13, solved for delta 1e-5 with scipy's normal distribution:
# epsilon 0.926 for one, 1.356 for two, 1.698 for three.
ICU = MuSquaredBudget(epsilon=3.0, delta=1e-5)
COST = gaussian_cost(4.0, 0.0)


def approved(number, year, data_set="icu"):
    return Approved(
        study=f"{number:064x}",
        researcher="c" * 64,
        sides="d" * 64,
        data_set=data_set,
        declared_patients=100,
        reply_after_ms={"train": 10},
        envelope={"training": COST, "held-out": COST},
        delta=1e-5,
        by="ada",
        at=int(datetime(year, 7, 1, tzinfo=UTC).timestamp() * 1000),
    )


def account_of(*entries):
    account = Account()
    budgets = {"icu": ICU, "eye": ICU}
    key = public_key_hex(ADA.public_key())
    account.apply(Created(site="north", ledger_key=key, witness_key=key, budgets=budgets, unsafe_test_site=False, at=1))
    for entry in entries:
        account.apply(entry)
    return account


WITHDRAWN = Withdrawn(study=f"{1:064x}", by="ada", at=1)
YEARS = {
    "nothing said": (None, [approved(1, 2026), approved(2, 2026)], True),
    "a first that fits": (1.0, [], True),
    "a first that does not": (0.9, [], False),
    "a second that fits": (1.4, [approved(1, 2026)], True),
    "a second that does not": (1.3, [approved(1, 2026)], False),
    "a second of another year": (1.3, [approved(1, 2025)], True),
    "a second of other data": (1.3, [approved(1, 2026, "eye")], True),
    "a second after one that was withdrawn unspent": (1.3, [approved(1, 2026), WITHDRAWN], True),
    "a third that fits": (1.7, [approved(1, 2026), approved(2, 2026)], True),
    "a third that does not": (1.6, [approved(1, 2026), approved(2, 2026)], False),
}


@pytest.mark.parametrize(("most", "before", "allowed"), YEARS.values(), ids=YEARS)
def test_what_is_approved_in_a_year_costs_no_more_together_than_the_policy_says(most, before, allowed):
    policy = Policy.model_validate(POLICY | {"max_epsilon_a_year": most})
    if allowed:
        check_year(policy, account_of(*before), approved(9, 2026), ICU)
    else:
        with pytest.raises(PolicyForbids, match="rule 'max_epsilon_a_year'"):
            check_year(policy, account_of(*before), approved(9, 2026), ICU)


def test_the_year_is_the_hospitals():
    new_year = int(datetime(2026, 12, 31, 23, 30, tzinfo=UTC).timestamp() * 1000)
    assert Policy.model_validate(POLICY).year_of(new_year) == 2026
    assert Policy.model_validate(POLICY | {"time_zone": "Europe/Paris"}).year_of(new_year) == 2027


@pytest.mark.parametrize("key", POLICY)
def test_no_rule_has_a_default(key):
    with pytest.raises(ValidationError):
        Policy.model_validate({name: value for name, value in POLICY.items() if name != key})


def test_a_missing_policy_file_allows_nothing(tmp_path):
    with pytest.raises(ConfigInvalid, match=r"policy\.toml cannot be read"):
        load_policy(tmp_path)


SITE = """
id = "north"
title = "North Hospital"
{more}
[data_set]
name = "icu"
file = "{file}"
patient_column = "id"
declared_patients = 100
"""


def site(tmp_path, file="data.csv", more=""):
    (tmp_path / "site.toml").write_text(SITE.format(file=file, more=more))
    return load_site_file(tmp_path)


def test_a_site_file_gives_the_path_of_its_data(tmp_path):
    assert site(tmp_path).data_set.file == (tmp_path / "data.csv").resolve()


@pytest.mark.parametrize("file", ["../data.csv", "/etc/passwd", "a/../../data.csv", "link.csv"])
def test_data_outside_the_sites_folder_are_refused(tmp_path, file):
    (tmp_path / "link.csv").symlink_to("/etc/passwd")
    with pytest.raises(ConfigInvalid, match="outside the site's folder"):
        site(tmp_path, file)


PLACE = 'patient_column = "id"\ndeclared_patients = 100\n'


def data_set(tmp_path, file, more):
    (tmp_path / "site.toml").write_text(
        f'id = "ward-a"\ntitle = "Ward A"\n[data_set]\nname = "icu"\nfile = "{file}"\n{PLACE}{more}\n'
    )
    return load_site_file(tmp_path).data_set


def test_a_data_set_says_what_to_read(tmp_path):
    path = tmp_path.resolve()
    assert data_set(tmp_path, "a.csv", "").source == TableSource(path / "a.csv", "csv")
    assert data_set(tmp_path, "a.parquet", "").source == TableSource(path / "a.parquet", "parquet")
    assert data_set(tmp_path, "a.dat", 'format = "parquet"').source == TableSource(path / "a.dat", "parquet")
    query = "SELECT * FROM visits"
    assert data_set(tmp_path, "a.db", f'query = "{query}"').source == TableSource(path / "a.db", "sqlite", query)


COLUMNS = '[[data_set.columns]]\nname = "id"\ntype = "patient"\n[[data_set.columns]]\nname = "age"\ntype = "number"\n'
BAD_DATA_SETS = {
    "an unknown format": ("a.csv", 'format = "excel"', "data_set.format"),
    "a query on a CSV file": ("a.csv", 'query = "SELECT 1"', "query is given exactly where"),
    "a database without a query": ("a.duckdb", "", "query is given exactly where"),
    "an empty query": ("a.duckdb", 'query = ""', "data_set.query"),
    "a query over everybody": ("a.duckdb", 'query = "SELECT * FROM v LIMIT 5"', "LIMIT"),
    "a split column of the patient": ("a.csv", 'split_column = "id"', "split_column and patient_column are both 'id'"),
    "a split column of private data": ("a.csv", 'split_column = "side"', "only where public_data is true"),
    "an unknown type": ("a.csv", COLUMNS.replace("number", "float"), "type"),
    "a range of a column": ("a.csv", COLUMNS + "range = [0, 90]", "unknown key"),
    "a column twice": ("a.csv", COLUMNS.replace("age", "id"), "name a column twice"),
    "no column of the patient": ("a.csv", COLUMNS.replace("patient", "text"), "wanted patient_column alone"),
    "another column of the patient": ("a.csv", COLUMNS.replace('"id"', '"nr"'), "wanted patient_column alone"),
}


@pytest.mark.parametrize("case", BAD_DATA_SETS)
def test_a_data_set_that_says_what_it_must_not_is_refused(tmp_path, case):
    file, more, reason = BAD_DATA_SETS[case]
    assert data_set(tmp_path, "a.csv", COLUMNS).columns[1].type == "number"
    with pytest.raises(ConfigInvalid, match=reason):
        data_set(tmp_path, file, more)


@pytest.mark.parametrize("more", ["public_data = true", f'split_key = "{"0" * 64}"'])
def test_a_split_key_is_public_exactly_where_the_data_are(tmp_path, more):
    with pytest.raises(ConfigInvalid, match="split_key is given exactly where public_data is true"):
        site(tmp_path, more=more)
    assert site(tmp_path, more=f'public_data = true\nsplit_key = "{"0" * 64}"').public_data


WITNESS = [
    ({}, ("required", 30)),
    ({"witness": "best-effort", "witness_wait_seconds": 1}, ("best-effort", 1)),
    ({"witness_wait_seconds": 600}, ("required", 600)),
    ({"witness": "never"}, None),
    ({"witness": ""}, None),
    ({"witness_wait_seconds": 0}, None),
    ({"witness_wait_seconds": 601}, None),
    ({"witness_wait_seconds": 1.5}, None),
]


@pytest.mark.parametrize(("rule", "wanted"), WITNESS, ids=[str(row[0]) for row in WITNESS])
def test_the_witness_is_required_unless_the_policy_says_otherwise_and_never_waited_for_without_end(rule, wanted):
    if wanted is None:
        with pytest.raises(ValidationError):
            Policy.model_validate(POLICY | rule)
    else:
        policy = Policy.model_validate(POLICY | rule)
        assert (policy.witness, policy.witness_wait_seconds) == wanted
