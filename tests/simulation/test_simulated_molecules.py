"""A study of molecules from a table to its results: what a person can do with the model, with RDKit alone."""

import csv
import json
import math
import re

import numpy as np
import pytest
from safetensors import safe_open
from wards import PROTOCOL

from fedhealth.config import parse_toml
from fedhealth.errors import DataUnusable
from fedhealth.learning.draft import TableRoles, columns_of, draft_protocol
from fedhealth.learning.model_file import load_model
from fedhealth.records.source import read_table_file
from fedhealth.simulation.hospitals import Split
from fedhealth.simulation.run import RESULTS, simulate_table
from fedhealth.study.protocol import Study, load_study

pytest.importorskip("rdkit", reason="RDKit is not installed (extra `molecules`)")

FEATURES = """
[[features]]
kind = "molecule"
column = "smiles"
fingerprints = [{ atoms = "roles", radius = 1, size = 64, largest_count = 3 }, { size = 128 }]
descriptors = [{ name = "logp", range = [-4, 7] }, { name = "rings", range = [0, 8] }]
missing_indicator = true
"""
SPLIT = Split("ward", "person", seed=3)
NOWHERE = "west"
"""A hospital whose structures nobody can read."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Chains and rings, an oxygen more or less; those with a ring pass, one in six the other way."""
    rows = []
    for ward in ("north", "south", NOWHERE):
        for number in range(60):
            chain = "C" * (1 + number % 12)
            smiles = (f"{chain}c1ccccc1", f"{chain}O", f"OC{chain}N")[number % 3]
            passes = (number % 3 == 0) != (number % 6 == 5)
            rows.append((ward, f"{ward}-{number}", f"({smiles}" if ward == NOWHERE else smiles, int(passes)))
    path = tmp_path_factory.mktemp("molecules") / "compounds.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("ward", "person", "smiles", "fell"), *rows])
    return path


@pytest.fixture(scope="module")
def study(table):
    file = table.with_name("falls.toml")
    file.write_text(PROTOCOL[: PROTOCOL.index("[[features]]")] + FEATURES)
    return load_study(file)


@pytest.fixture(scope="module")
def results(study, table):
    found = simulate_table(study, table, SPLIT, table.with_name("out"), workers=1)
    return found.folder / RESULTS


def by_hand(inputs, smiles):
    """Return a structure's inputs as the file's own notes describe them, by RDKit alone."""
    from rdkit.Chem import Descriptors, MolFromSmiles, rdFingerprintGenerator

    molecule, values = MolFromSmiles(smiles), []
    for each in inputs:
        if "fingerprint" in each:
            asked, roles = each["fingerprint"], {}
            if asked["atoms"] == "roles":
                roles = {"atomInvariantsGenerator": rdFingerprintGenerator.GetMorganFeatureAtomInvGen()}
            made = rdFingerprintGenerator.GetMorganGenerator(asked["radius"], fpSize=each["count"], **roles)
            counts, largest = made.GetCountFingerprintAsNumPy(molecule), asked["largest_count"]
            values += [min(int(count), largest) / largest for count in counts]
        elif "descriptor" in each:
            (low, high), number = each["range"], getattr(Descriptors, each["descriptor"])(molecule)
            values.append(2 * (min(max(number, low), high) - low) / (high - low) - 1)
        else:
            assert each["missing"]
            values.append(0.0)
    return np.array(values)


def test_the_file_alone_says_how_to_use_the_model_with_rdkit(results):
    with safe_open(results / "model.safetensors", "numpy") as file:
        weights, notes = file.get_tensor("weights"), json.loads(file.metadata()["fedhealth"])
    model = load_model(results)
    for smiles in ("CC(=O)Oc1ccccc1C(=O)O", "CCO", "c1ccc2ccccc2c1"):
        score = by_hand(notes["inputs"], smiles) @ weights[:-1] + weights[-1]
        assert model.chance_of({"smiles": smiles}) == pytest.approx(1 / (1 + math.exp(-score)))
    # Without a structure all inputs are 0 but the indicator, the last before the bias.
    missing = 1 / (1 + math.exp(-weights[-2] - weights[-1]))
    assert model.chance_of({"smiles": None}) == model.chance_of({"smiles": " "}) == pytest.approx(missing)


def test_a_structure_that_cannot_be_read_gets_no_chance_and_is_not_repeated(results):
    with pytest.raises(DataUnusable, match=r"'smiles' of the record cannot be used.*SMILES of at most 500") as refusal:
        load_model(results).chance_of({"smiles": "C1CC(secret"})
    assert "secret" not in str(refusal.value)


def test_the_model_card_numbers_the_inputs_and_its_code_makes_them(results):
    card = (results / "model-card.md").read_text()
    rows = re.findall(r"^\| (\d+(?: to \d+)?) \| smiles \| (.*) \|$", card, flags=re.MULTILINE)
    assert [numbers for numbers, _ in rows] == ["1 to 64", "65 to 192", "193", "194", "195"]
    assert "3 at most, divided by 3: Morgan fingerprint, roles, radius 1" in rows[0][1]
    assert rows[2][1].startswith("MolLogP, log units, Crippen; scaled from -4 .. 7")
    assert rows[4][1] == "1 if it is missing, else 0"
    _, code = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names, made = {}, []
    for line in code.strip().splitlines():
        if line.startswith(("from", "molecule =")):
            exec(line, names)  # noqa: S102 - the code of our own template
        elif line:
            made.append(eval(line, names))  # noqa: S307 - the same
    assert [np.size(each) for each in made] == [64, 128, 1, 1]
    assert (made[0].sum(), made[3]) == (6, 0)  # ethanol: three atoms, and the bonds of each


def test_a_hospital_without_one_readable_structure_takes_part_like_the_others(results):
    sites = {site["site"]: site for site in json.loads((results / "evidence.json").read_text())["sites"]}
    for site in ("north", "south", NOWHERE):
        assert sites[site]["rounds"] == [1, 2, 3]
        assert sorted(sites[site]["noisy_counts"]) == sorted(sites["north"]["noisy_counts"])


def test_a_draft_of_a_table_with_structures_asks_for_molecules(tmp_path):
    file = tmp_path / "compounds.csv"
    file.write_text("smiles,passes\n" + "".join(f"{'C' * n}(O)C,{n % 2}\n" for n in range(1, 31)))
    columns = columns_of(read_table_file(file), TableRoles("passes"))
    text = draft_protocol("falls", "diagnosis", "wards", columns)
    (drafted,) = parse_toml(text.encode(), file, Study, "study protocol").features
    assert (drafted.kind, drafted.column, drafted.width) == ("molecule", "smiles", 1024 + 16)
    assert columns.left_out == ()
