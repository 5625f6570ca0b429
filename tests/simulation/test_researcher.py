"""The researcher's side in Python: what it loads, and that its data frames say what the evidence says."""

import subprocess
import sys

import pytest
from wards import PROTOCOL, patients, write_table

import fedhealth
from fedhealth.errors import ConfigInvalid
from fedhealth.signing import create_signing_key, public_key_hex
from fedhealth.study.signature import open_signed_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("researcher")
    (folder / "falls.toml").write_text(PROTOCOL, encoding="utf-8")
    write_table(folder / "wards.csv", patients(each=400))
    return folder


@pytest.fixture(scope="module")
def study(folder):
    return fedhealth.Study.load(folder / "falls.toml")


@pytest.fixture(scope="module")
def result(folder, study):
    return study.simulate(folder / "wards.csv", "ward", patient_column="person", rounds=2, out=folder / "out")


def test_importing_fedhealth_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'pandas', 'pydantic', 'flwr', 'cryptography'}"
    script = f"import sys, fedhealth; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_loading_and_checking_a_study_loads_no_torch(folder):
    script = "import sys, fedhealth; s = fedhealth.Study.load(sys.argv[1]); s.check(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, str(folder / "falls.toml")]).returncode == 0


def test_there_is_no_other_name():
    with pytest.raises(AttributeError, match="has no attribute 'Studies'"):
        _ = fedhealth.Studies


def test_metrics_are_the_figures_of_the_evidence_with_their_intervals(result):
    metrics = result.metrics.set_index(["site", "group", "metric"])
    pooled = result.evidence.pooled
    row = metrics.loc[("all together", "", "accuracy")]
    assert pooled.accuracy.estimate is not None
    assert (row.estimate, row.low, row.high) == (
        pooled.accuracy.estimate, pooled.accuracy.low, pooled.accuracy.high
    )  # fmt: skip
    assert metrics.loc[("all together", "", "auc")].estimate == pooled.scores.auc.estimate
    assert set(result.metrics.site) == {"north", "south-east", "west", "all together"}
    withheld = result.metrics[result.metrics.withheld.notna()]
    assert withheld.estimate.isna().all()


def test_privacy_participation_and_model(result):
    assert result.privacy.epsilon.tolist() == [
        line.epsilon for site in result.evidence.sites for line in site.spent
    ]  # fmt: skip
    assert result.participation.shape == (2, 3)
    assert result.participation.all(axis=None)
    assert result.model.index.tolist() == ["age", "stick=yes", "stick=no", "(bias)"]


def test_what_is_not_private_is_apart(result):
    together = result.not_private[result.not_private.patients == "all together"]
    assert together.model.tolist() == [
        "north alone", "south-east alone", "west alone",
        "federated, private", "federated, without clip and noise", "one table, no privacy",
    ]  # fmt: skip
    assert together.accuracy.between(0, 1).all()


def test_it_checks_and_signs_as_the_commands_do(folder, study):
    key = create_signing_key(folder / "researcher.key")
    signed = open_signed_study(study.sign(folder / "researcher.key"))
    assert signed.study.digest == study.digest == study.check().digest
    assert signed.researcher == public_key_hex(key)


def test_nobody_signs_an_open_question(folder):
    (folder / "draft.toml").write_text(PROTOCOL.replace('purpose = "a test"', 'purpose = "?"'), encoding="utf-8")
    with pytest.raises(ConfigInvalid):
        fedhealth.Study.load(folder / "draft.toml").sign(folder / "researcher.key")
