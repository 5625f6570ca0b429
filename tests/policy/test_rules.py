import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedhealth.errors import ConfigInvalid, PolicyForbids
from fedhealth.policy.rules import Policy, check_policy, load_policy
from fedhealth.policy.site_file import load_site_file
from fedhealth.signing import public_key_hex
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study, sign_study
from fedhealth.table_source import TableSource

ADA = Ed25519PrivateKey.from_private_bytes(bytes(32))
EVE = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
PINNED = {"ada": public_key_hex(ADA.public_key()), "eve": public_key_hex(EVE.public_key())}
POLICY = {
    "tasks": ["diagnosis"],
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


ALLOWED = {
    "as agreed": {},
    "exactly the most": {"study": privacy(training_epsilon=2.0, evaluation_epsilon=2.0)},
    "another researcher of the list": {"policy": {"researchers": ["ada", "eve"]}, "key": EVE},
    "a name of the list that is not pinned": {"policy": {"researchers": ["nobody", "ada"]}},
}


@pytest.mark.parametrize("case", ALLOWED)
def test_allows_a_study(case):
    check(**ALLOWED[case])


REFUSED = {
    "no task is allowed": ({"policy": {"tasks": []}}, "tasks"),
    "no researcher is allowed": ({"policy": {"researchers": []}}, "researchers"),
    "the researcher is pinned and not in the list": ({"key": EVE}, "researchers"),
    "the researcher is in the list and not pinned": ({"pinned": {}}, "researchers"),
    "another key is pinned under the name": ({"pinned": {"ada": PINNED["eve"]}}, "researchers"),
    "training asks too much": ({"study": privacy(training_epsilon=2.0001)}, "max_epsilon_a_study"),
    "evaluation asks too much": ({"study": privacy(evaluation_epsilon=3.0)}, "max_epsilon_a_study"),
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
