import ast
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import fedhealth
from fedhealth.coordinator.report import Reference
from fedhealth.demo.reference import area_under_curve, fit_without_privacy, main, make_reference
from fedhealth.errors import ConfigInvalid, DataUnusable, PolicyForbids
from fedhealth.records.table import Records
from fedhealth.study.protocol import load_study

ROOT = Path(__file__).parents[2]
PROTOCOL = ROOT / "protocols" / "heart-disease-diagnosis.toml"
SITES = [ROOT / "sites" / name for name in ("switzerland", "cleveland")]


@pytest.fixture(scope="module")
def study():
    return load_study(PROTOCOL)


@pytest.fixture(scope="module")
def always_ill(study):
    """A model that calls everybody ill, with the same score."""
    return save({"weights": np.append(np.zeros(study.dimension), 1.0)})


@pytest.fixture
def private_site(tmp_path):
    """Cleveland's folder as a hospital's own would be: neither public_data nor split_key."""
    folder = tmp_path / "private"
    shutil.copytree(SITES[1], folder)
    lines = (folder / "site.toml").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("public_data", "split_key"))]
    assert len(lines) - len(kept) == 2
    (folder / "site.toml").write_text("".join(kept), encoding="utf-8")
    return folder


AUC = {
    # Pairs (ill, healthy): 3 > 1, 3 > 2, 2 = 2, 2 > 1: 3.5 of 4.
    "with a tie": ([1.0, 2.0, 2.0, 3.0], [False, False, True, True], 3.5 / 4),
    "perfect": ([-1.0, 0.5], [False, True], 1.0),
    "upside down": ([0.5, -1.0], [False, True], 0.0),
    "all tied": ([7.0, 7.0, 7.0], [False, True, False], 0.5),
    "nobody ill": ([1.0, 2.0], [False, False], None),
    "everybody ill": ([1.0, 2.0], [True, True], None),
}


@pytest.mark.parametrize("case", AUC)
def test_area_under_curve_counts_pairs(case):
    scores, ill, wanted = AUC[case]
    assert area_under_curve(np.array(scores), np.array(ill)) == wanted


def records(features, labels, patients):
    return Records(
        features=np.array(features, dtype=np.float64),
        labels=np.array(labels, dtype=np.float64),
        patients=np.array(patients, dtype=np.int64),
        patient_count=len(set(patients)),
    )


def test_fit_is_the_optimum_of_the_ridged_logistic_loss():
    # By symmetry the bias is 0. For two patients at x = 1 (ill) and x = -1 (healthy) the loss is
    # 2 log(1 + exp(-w)) + w^2 / 2, whose derivative -2 / (1 + exp(w)) + w is 0 where w (1 + exp(w)) = 2.
    weight, bias = fit_without_privacy([records([[1.0], [-1.0]], [1.0, 0.0], [0, 1])])
    assert bias == pytest.approx(0, abs=1e-9)
    assert weight * (1 + np.exp(weight)) == pytest.approx(2, abs=1e-8)


def test_patient_with_two_equal_records_weighs_as_one():
    once = fit_without_privacy([records([[1.0], [-0.5], [0.2]], [1.0, 0.0, 0.0], [0, 1, 2])])
    twice = fit_without_privacy([records([[1.0], [1.0], [-0.5], [0.2]], [1.0, 1.0, 0.0, 0.0], [0, 0, 1, 2])])
    assert twice == pytest.approx(once, abs=1e-9)


def test_fit_stays_finite_where_every_patient_is_ill():
    assert np.isfinite(fit_without_privacy([records([[1.0], [0.5]], [1.0, 1.0], [0, 1])])).all()


def test_reference_judges_models_on_the_public_split(study, always_ill):
    reference = make_reference(study, always_ill, SITES)
    cleveland, switzerland = reference.sites
    assert (reference.study, reference.model_sha256) == (study.digest, hashlib.sha256(always_ill).hexdigest())
    assert (cleveland.site, switzerland.site) == ("cleveland", "switzerland")
    assert cleveland.training_patients + cleveland.held_out_patients == 303  # sites/README.md
    assert switzerland.training_patients + switzerland.held_out_patients == 123
    for site in reference.sites:
        assert site.federated.accuracy == pytest.approx(site.held_out_ill / site.held_out_patients)
    # Every held-out patient of Switzerland is ill, as 93.5 % of all are there, so its AUC does not exist.
    assert (cleveland.federated.auc, switzerland.federated.auc) == (0.5, None)
    ill = sum(site.held_out_ill for site in reference.sites)
    assert reference.federated.accuracy == pytest.approx(ill / sum(site.held_out_patients for site in reference.sites))
    assert reference.pooled_without_privacy.accuracy > 0.75  # published models of these data are near 0.8
    assert reference.pooled_without_privacy.auc > 0.8


def test_refuses_site_without_public_data_before_reading_any_table(study, always_ill, private_site, monkeypatch):
    def never(*_arguments, **_options):
        raise AssertionError("a table was opened")

    monkeypatch.setattr("fedhealth.demo.reference.read_source", never)
    with pytest.raises(PolicyForbids, match="site 'cleveland' are not public"):
        make_reference(study, always_ill, [SITES[0], private_site])


def test_command_refuses_private_site_with_a_message_and_writes_nothing(always_ill, private_site, tmp_path, capsys):
    code = main(arguments_of(tmp_path, always_ill, [SITES[0], private_site]))
    assert code == PolicyForbids.exit_code
    said = capsys.readouterr().err
    assert "public_data = true" in said
    assert "Traceback" not in said
    assert not (tmp_path / "reference.json").exists()


def test_command_writes_what_the_schema_reads(study, always_ill, tmp_path):
    assert main(arguments_of(tmp_path, always_ill, SITES)) == 0
    written = Reference.model_validate_json((tmp_path / "reference.json").read_bytes())
    assert written == make_reference(study, always_ill, SITES)


def test_command_says_which_file_is_missing(tmp_path, always_ill, capsys):
    arguments = arguments_of(tmp_path, always_ill, SITES)
    (tmp_path / "model.safetensors").unlink()
    assert main(arguments) == 1
    assert "model.safetensors" in capsys.readouterr().err


def arguments_of(folder, model, sites):
    (folder / "model.safetensors").write_bytes(model)
    paths = [f"--site-folder={site}" for site in sites]
    return [
        f"--protocol={PROTOCOL}",
        f"--model={folder / 'model.safetensors'}",
        f"--out={folder / 'reference.json'}",
        *paths,
    ]


def test_refuses_a_site_named_twice_or_none(study, always_ill):
    for sites in ([SITES[0], SITES[0]], []):
        with pytest.raises(ConfigInvalid, match="each site's folder once"):
            make_reference(study, always_ill, sites)


BAD_MODELS = {
    "not safetensors": b"nonsense",
    "other length": save({"weights": np.zeros(3)}),
    "other type": save({"weights": np.zeros(19, dtype=np.float32)}),
    "other name": save({"w": np.zeros(19)}),
    "not finite": save({"weights": np.full(19, np.nan)}),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_refuses_a_model_of_another_form(study, case):
    with pytest.raises(DataUnusable):
        make_reference(study, BAD_MODELS[case], SITES)


def test_no_module_of_the_package_imports_the_reference():
    package = Path(fedhealth.__file__).parent
    offenders = []
    for path in package.rglob("*.py"):
        if path == package / "demo" / "reference.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # A relative import is counted as one of the demo's: better a false alarm than a way in.
                module = node.module if not node.level else f"fedhealth.demo.{node.module or ''}".rstrip(".")
                names = [f"{module}.{alias.name}" for alias in node.names] + [module]
            else:
                continue
            offenders += [path for name in names if name.startswith("fedhealth.demo.reference")]
    assert offenders == []
