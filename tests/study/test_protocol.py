import copy
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ConfigInvalid
from fedhealth.study.protocol import Study, load_study

PROTOCOL = """
format = 1
name = "heart"
title = "Heart disease"
task = "diagnosis"
purpose = "research"
legal_basis = "consent"
data_set = "icu"
min_declared_patients = 10
max_records_per_patient = 2

[[features]]
kind = "number"
column = "age"
unit = "years"
range = [20, 100]
missing_values = [-9]
impute = 60
missing_indicator = true

[[features]]
kind = "category"
column = "sex"
categories = ["f", "m"]
missing_indicator = true

[endpoint]
kind = "binary"
column = "ill"
positive_above = 0.5
positive = "has it"

[model]
kind = "logistic-regression"

[training]
rounds = 20
learning_rate = 0.5
l2_clip_norm = 1.0
strategy = { kind = "fedavgm", server_momentum = 0.9 }

[evaluation]
held_out_fraction = 0.25
too_wide = 0.1

[privacy]
unit = "patient"
delta = 1e-5
training_epsilon = 2.0
evaluation_epsilon = 1.0
"""
VALUES = tomllib.loads(PROTOCOL)


def write(tmp_path, text):
    file = tmp_path / "study.toml"
    file.write_text(text)
    return file


def changed(path, value):
    values = copy.deepcopy(VALUES)
    part = values
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return values


def leaves(part, path=()):
    """Every place of the protocol that holds a value."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def test_a_protocol_is_read_whole(tmp_path):
    study = load_study(write(tmp_path, PROTOCOL))
    assert study == Study.model_validate(VALUES)
    assert study.dimension == 5  # age, age missing, f, m, sex missing
    assert study.privacy.training_epsilon == 2.0 and study.features[0].range == (20, 100)


def test_the_digest_does_not_depend_on_how_the_file_is_written(tmp_path):
    spaced = PROTOCOL.replace(" = ", "=").replace("format=1", "# a comment\nformat=1").replace("0.5", "0.50")
    assert load_study(write(tmp_path, spaced)).digest == Study.model_validate(VALUES).digest


CLOSED = {
    ("format",),
    ("task",),
    ("features", 0, "kind"),
    ("features", 1, "kind"),
    ("endpoint", "kind"),
    ("training", "strategy", "kind"),
    ("privacy", "unit"),
}


@pytest.mark.parametrize("path", [path for path in leaves(VALUES) if path not in CLOSED], ids=str)
def test_another_value_in_any_field_is_another_digest(path):
    value = VALUES
    for key in path:
        value = value[key]
    if isinstance(value, bool):
        values = changed(path, not value)
    elif isinstance(value, str):
        values = changed(path, value + "x")
    else:
        values = changed(path, value + 1 if isinstance(value, int) else value * 1.01)
    assert Study.model_validate(values).digest != Study.model_validate(VALUES).digest


@pytest.mark.parametrize("path", sorted(CLOSED, key=str), ids=str)
def test_what_is_from_a_closed_list_cannot_be_anything_else(path):
    with pytest.raises(ValidationError):
        Study.model_validate(changed(path, "other"))


@pytest.mark.parametrize("path", list(leaves(VALUES)), ids=str)
def test_the_canonical_bytes_hold_every_field(path):
    if path == ("training", "rounds"):
        assert b'"rounds":20' in canonical_bytes(Study.model_validate(VALUES))
    assert str(path[-1] if isinstance(path[-1], str) else path[-2]).encode() in canonical_bytes(
        Study.model_validate(VALUES)
    )


SLIPS = {
    "a misspelt key": ("learning_rate", "learning_rte", "did you mean 'learning_rate'"),
    "a misspelt key of a feature": ("impute", "imput", "did you mean 'impute'"),
    "a misspelt section": ("[evaluation]", "[evalution]", "did you mean 'evaluation'"),
    "a key that is nothing like any": ('unit = "patient"', 'unit = "patient"\nzzz = 1', "unknown key 'privacy.zzz'"),
    "a range the wrong way round": ("range = [20, 100]", "range = [100, 20]", "wanted the lower value first"),
    "a range of subnormal width": ("range = [20, 100]", "range = [0, 1e-310]", "narrower than a number can scale"),
    "an empty range": ("range = [20, 100]", "range = [20, 20]", "wanted the lower value first"),
    "an infinite range": ("range = [20, 100]", "range = [20, inf]", "range"),
    "an imputed value out of range": ("impute = 60", "impute = 101", r"wanted a value within \[20"),
    "the endpoint among the features": ('column = "ill"', 'column = "age"', "the endpoint 'age' is among the features"),
    "a feature twice": ('column = "sex"', 'column = "age"', "name a column twice: age"),
    "a category twice": ('["f", "m"]', '["f", "f"]', "repeat a word"),
    "no category": ('["f", "m"]', "[]", "categories"),
    "momentum without its strategy": (
        '"fedavgm"',
        '"fedavg"',
        r"key 'training.strategy.fedavg.server_momentum' does not belong there",
    ),
    "a strategy without momentum": (
        "server_momentum = 0.9",
        "server_momentum = 0.0",
        "server_momentum.*greater than 0",
    ),
    "a strategy without its setting": (", server_momentum = 0.9", "", "fedavgm.server_momentum' is missing"),
    "a strategy that is none": ('"fedavgm"', '"fedbest"', "training.strategy: .*'fedbest'.*'fedavg', 'fedavgm'"),
    "a strategy that is not a table": (
        '{ kind = "fedavgm", server_momentum = 0.9 }',
        '"fedadam"',
        'wanted a table that names it, such as { kind = "fedadam" }',
    ),
    "a strategy that would be another": (
        'kind = "fedavgm", server_momentum = 0.9',
        'kind = "fedprox", proximal_mu = 0.1',
        "'fedprox' would be 'fedavg': .* write 'fedavg'",
    ),
    "a strategy that withstands nobody": (
        'kind = "fedavgm", server_momentum = 0.9',
        'kind = "krum", malicious_sites = 0',
        "malicious_sites.*greater than or equal to 1",
    ),
    "a quorum that is too small to combine": (
        'strategy = { kind = "fedavgm", server_momentum = 0.9 }',
        'strategy = { kind = "krum", malicious_sites = 1 }\n[sites]\nquorum = 4',
        "quorum is 4, wanted at least the 5 sites that 'krum' needs",
    ),
    "a missing key": ("rounds = 20\n", "", "key 'training.rounds' is missing"),
    "another format": ("format = 1", "format = 2", "format"),
    "no rounds": ("rounds = 20", "rounds = 0", "training.rounds"),
    "half a round": ("rounds = 20", "rounds = 20.5", "training.rounds"),
    "all held out": ("held_out_fraction = 0.25", "held_out_fraction = 1.0", "held_out_fraction"),
    "a fraction that is no number": ("held_out_fraction = 0.25", "held_out_fraction = nan", "held_out_fraction"),
    "epsilon of nothing": ("training_epsilon = 2.0", "training_epsilon = 0.0", "training_epsilon"),
    "epsilon without end": ("training_epsilon = 2.0", "training_epsilon = inf", "training_epsilon"),
    "delta that is no number": ("delta = 1e-5", "delta = nan", "privacy.delta"),
    "delta as large as a gift": ("delta = 1e-5", "delta = 0.5", "privacy.delta"),
    "another unit of privacy": ('unit = "patient"', 'unit = "record"', "privacy.unit"),
    "a clip that is no number": ("l2_clip_norm = 1.0", "l2_clip_norm = nan", "l2_clip_norm"),
    "a threshold that is no number": ("positive_above = 0.5", "positive_above = nan", "positive_above"),
    "a name with a slash": ('name = "heart"', 'name = "../heart"', "name"),
    "shares that are more than all": ("too_wide = 0.1", "too_wide = 0.1\ntable = 0.6", "add up to 1.1, wanted 1"),
    "an odd number of bins": ("too_wide = 0.1", "scores = { bins = 5 }", "evaluation.scores.bins"),
    "a subgroup of numbers": (
        "too_wide = 0.1",
        'table = 0.25\nsubgroups = { share = 0.25, columns = ["age"] }',
        "no category feature: age",
    ),
    "a subgroup twice": (
        "too_wide = 0.1",
        'table = 0.25\nsubgroups = { share = 0.25, columns = ["sex", "sex"] }',
        "subgroups name a column twice",
    ),
    "fewer sites than are required": (
        "[model]",
        '[sites]\nrequired = ["a", "b"]\nquorum = 1\n[model]',
        "quorum is 1, wanted at least the 2 sites",
    ),
    "a site required twice": ("[model]", '[sites]\nrequired = ["a", "a"]\n[model]', "required names a site twice"),
    "a cohort that chooses the answer": (
        "[model]",
        '[[include]]\nkind = "number"\ncolumn = "ill"\nrange = [1, 1]\n[model]',
        "would choose the answer",
    ),
    "a condition the wrong way round": (
        "[model]",
        '[[include]]\nkind = "number"\ncolumn = "age"\nrange = [60, 40]\n[model]',
        "wanted the lower value first",
    ),
    "a feature that restates the endpoint": (
        'positive = "has it"',
        'positive = "has it"\nrestated_by = ["sex"]',
        "restate the endpoint 'ill': sex",
    ),
    "a word that means yes and no": (
        'kind = "binary"\ncolumn = "ill"\npositive_above = 0.5',
        'kind = "category"\ncolumn = "ill"\npositive_categories = ["a"]\nnegative_categories = ["a"]',
        "repeat a word",
    ),
    "a purpose that is in no list": (
        'purpose = "research"',
        'purpose = "x"\npurpose_class = "marketing"',
        "purpose_class",
    ),
    "not TOML": ("format = 1", "format = ", "is not TOML"),
}


@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_is_refused_and_named(tmp_path, case):
    right, wrong, message = SLIPS[case]
    assert PROTOCOL.count(right) == 1 or right in ('unit = "patient"', "impute", "learning_rate")
    with pytest.raises(ConfigInvalid, match=message):
        load_study(write(tmp_path, PROTOCOL.replace(right, wrong, 1)))


def test_a_file_that_is_missing_too_large_or_not_text_is_refused(tmp_path):
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_study(tmp_path / "none.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (256 * 1024 + 1))
    with pytest.raises(ConfigInvalid, match="too large"):
        load_study(tmp_path / "large.toml")
    (tmp_path / "latin.toml").write_bytes('title = "Herzschwäche"'.encode("latin-1"))
    with pytest.raises(ConfigInvalid, match="is not TOML"):
        load_study(tmp_path / "latin.toml")


def test_the_protocols_we_ship_are_valid():
    files = list((Path(__file__).parents[2] / "protocols").glob("*.toml"))
    assert files
    for file in files:
        load_study(file)
