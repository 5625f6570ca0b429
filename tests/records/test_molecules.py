"""Structures of molecules as model inputs: what a cell becomes, by itself alone, in silence."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_study import PROTOCOL

from fedhealth.errors import ConfigInvalid
from fedhealth.records import molecules
from fedhealth.records.columns import describe_columns
from fedhealth.records.molecules import look_like_smiles, molecule_inputs, read_molecule
from fedhealth.records.split import is_held_out
from fedhealth.records.study_fit import find_giveaways, find_misfits
from fedhealth.records.table import Table, prepare_records
from fedhealth.study.molecules import DESCRIPTORS, MAX_SMILES, MoleculeFeature
from fedhealth.study.protocol import Study

pytest.importorskip("rdkit", reason="RDKit is not installed (extra `molecules`)")

ASPIRIN, CAFFEINE, BENZENE, ETHANOL = "CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "c1ccccc1", "CCO"


def feature(**changes):
    asked = {
        "kind": "molecule",
        "column": "smiles",
        "fingerprints": [{"radius": 0, "size": 1024, "largest_count": 3}],
        "descriptors": [{"name": "molecular-weight", "range": [0, 100]}],
        "missing_indicator": True,
    }
    return MoleculeFeature.model_validate(asked | changes)


WIDE = [{"name": name, "range": [-1000, 1000]} for name in DESCRIPTORS]


def test_a_fingerprint_counts_each_neighbourhood_up_to_the_largest_count():
    # Radius 0 is each atom alone. Ethanol has three kinds, CH3, CH2 and OH, once each: three inputs of 1/3. Benzene has
    # one kind six times: one input of min(6, 3) / 3, or of 6/12.
    def counts(cell, **fingerprint):
        made = feature(fingerprints=[{"radius": 0, "size": 1024} | fingerprint])
        return sorted(value for value in molecule_inputs(made, cell)[:1024] if value)

    assert counts(ETHANOL, largest_count=3) == pytest.approx([1 / 3] * 3)
    assert counts(BENZENE, largest_count=3) == [1.0]
    assert counts(BENZENE, largest_count=12) == [0.5]
    assert counts(ETHANOL) == [1.0] * 3
    # Ethanol's three atoms play two roles: its oxygen is donor and acceptor, its carbons nothing.
    assert counts(ETHANOL, atoms="roles", largest_count=2) == [0.5, 1.0]


def test_descriptors_are_those_of_textbooks():
    # Aspirin, C9H8O4: 9 x 12.011 + 8 x 1.008 + 4 x 15.999 = 180.159 Da; 13 heavy atoms, of them 4 oxygen; one OH to
    # give, 3 to accept by RDKit's rule; polar surface 26.30 (ester) + 37.30 (acid) (Ertl, J. Med. Chem. 2000); one
    # aromatic ring; 1 of 9 carbons is sp3.
    made = feature(fingerprints=[], descriptors=WIDE, missing_indicator=False)
    found = {name: 1000 * value for name, value in zip(DESCRIPTORS, molecule_inputs(made, ASPIRIN), strict=True)}
    assert found["molecular-weight"] == pytest.approx(180.159, abs=0.01)
    assert found["polar-surface"] == pytest.approx(63.60, abs=0.01)
    assert found["sp3-carbon-share"] == pytest.approx(1 / 9)
    whole = {
        "hydrogen-bond-donors": 1,
        "hydrogen-bond-acceptors": 3,
        "rings": 1,
        "aromatic-rings": 1,
        "aliphatic-rings": 0,
        "heavy-atoms": 13,
        "heteroatoms": 4,
        "nitrogen-and-oxygen-atoms": 4,
        "nh-and-oh-groups": 1,
    }
    assert {name: round(found[name], 6) for name in whole} == whole


def test_a_descriptor_is_scaled_from_its_range_and_clamped():
    # Ethanol weighs 2 x 12.011 + 6 x 1.008 + 15.999 = 46.069: 2 x 46.069 / 100 - 1 = -0.07862. Caffeine is heavier
    # than 100.
    assert molecule_inputs(feature(), ETHANOL)[-2:] == [pytest.approx(-0.07862, abs=1e-5), 0.0]
    assert molecule_inputs(feature(), CAFFEINE)[-2:] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("one", "other"), [("CCO", "OCC"), (BENZENE, "C1=CC=CC=C1"), (ASPIRIN, "OC(=O)c1ccccc1OC(C)=O")]
)
def test_one_structure_written_in_two_ways_has_the_same_inputs(one, other):
    made = feature(fingerprints=[{"size": 1024}, {"atoms": "roles", "size": 1024}], descriptors=WIDE)
    assert molecule_inputs(made, one) == pytest.approx(molecule_inputs(made, other))


NO_MOLECULE = {
    "blank": "",
    "a word for blank": "n/a",
    "another word for blank": "NA",
    "a name": "aspirin",
    "a bracket that stays open": "CC(C",
    "a ring that stays open": "C1CC",
    "five bonds at a carbon": "C(C)(C)(C)(C)C",
    "a ring that cannot be aromatic": "c1cccc1",
    "a reaction": "CC>>CO",
    "a name behind it": "CCO ethanol",
    "more of ChemAxon's behind it": "CCO |$;;x$|",
    "a line feed": "CC\nO",
    "a byte that is not UTF-8": "CC\udce9",
    "another script": "СС",
    "one character too many": "C" * (MAX_SMILES + 1),
    "very many characters": "C1" * 50_000,
}


@pytest.mark.parametrize("case", NO_MOLECULE)
def test_what_is_no_molecule_counts_as_missing_and_no_log_repeats_it(case, capfd):
    assert molecule_inputs(feature(), NO_MOLECULE[case]) == [0.0] * 1025 + [1.0]
    assert capfd.readouterr() == ("", "")


def test_the_longest_structure_that_counts_is_read():
    assert molecule_inputs(feature(), "C" * MAX_SMILES)[-1] == 0.0


@given(st.text("CcNnOo()[]=#123%+-.*/\\@HFS", max_size=40))
@settings(deadline=None)
def test_whatever_a_cell_holds_its_inputs_are_within_the_range(cell):
    made = feature(descriptors=[{"name": name, "range": facts.range} for name, facts in DESCRIPTORS.items()])
    inputs = molecule_inputs(made, cell)
    assert len(inputs) == made.width and max(map(abs, inputs)) <= 1
    assert inputs[-1] == float(read_molecule(cell) is None)


def test_a_descriptor_that_cannot_be_said_makes_the_structure_missing(monkeypatch):
    from rdkit.Chem import Descriptors

    for broken in (lambda molecule: float("nan"), lambda molecule: 1 / 0):
        monkeypatch.setattr(Descriptors, "MolWt", broken)
        assert molecule_inputs(feature(), ETHANOL) == [0.0] * 1025 + [1.0]


def test_without_rdkit_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(molecules, "_rdkit", molecules._rdkit.__wrapped__)  # nothing is kept from before
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ConfigInvalid, match=re.escape("pip install 'fedhealth[molecules]'")):
        molecule_inputs(feature(), ETHANOL)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprints": [], "descriptors": []}, "at least one"),
        ({"fingerprints": [{"size": 64}, {"size": 64}]}, "repeat one"),
        ({"descriptors": [{"name": "logp", "range": [0, 1]}, {"name": "logp", "range": [0, 2]}]}, "repeat one"),
        ({"descriptors": [{"name": "logp", "range": [1, 1]}]}, "lower value first"),
        ({"descriptors": [{"name": "logp", "range": [-1e308, 1e308]}]}, "wider than a number can say"),
        ({"descriptors": [{"name": "logp", "range": [0, 1e-310]}]}, "narrower than a number can scale"),
        ({"descriptors": [{"name": "MolLogP", "range": [0, 1]}]}, "molar-refractivity"),
        ({"fingerprints": [{"radius": 9}]}, "less than or equal to 3"),
    ],
)
def test_a_feature_that_asks_nothing_or_twice_is_refused(changes, said):
    with pytest.raises(ValidationError, match=said):
        feature(**changes)


# Of a whole table

COLUMNS = ("compound", "smiles", "bbb")
ENDPOINT = {
    "kind": "category",
    "column": "bbb",
    "positive_categories": ["yes"],
    "negative_categories": ["no"],
    "positive": "passes",
}


def study(**changes):
    asked = {"features": [feature(**changes).model_dump()], "endpoint": ENDPOINT, "max_records_per_patient": 1}
    return Study.model_validate(PROTOCOL | asked)


def table(*rows):
    return Table(Path("compounds.csv"), COLUMNS, tuple(enumerate(rows, 2)))


ROWS = (("1", ASPIRIN, "no"), ("2", "CC(C", "no"), ("3", CAFFEINE, "yes"), ("4", "", "yes"), ("5", ETHANOL, "yes"))


def inputs_by_compound(rows):
    """Return each compound's inputs on the side it is on, as bytes."""
    sides = prepare_records(table(*rows), study(), "compound", bytes(32), strict=False)
    names = [[row[0] for row in rows if is_held_out(bytes(32), row[0], 0.25) == side] for side in (False, True)]
    return {
        name: side.features[place].tobytes()
        for side, on_it in zip(sides, names, strict=True)
        for place, name in enumerate(on_it)
    }


def test_a_compound_s_inputs_do_not_depend_on_the_others():
    whole = inputs_by_compound(ROWS)
    assert len(set(whole.values())) == 4  # the two without a structure are alike
    for gone in range(len(ROWS)):
        rest = inputs_by_compound(ROWS[:gone] + ROWS[gone + 1 :])
        assert rest == {name: inputs for name, inputs in whole.items() if name != ROWS[gone][0]}


def test_a_check_names_the_rows_without_a_structure_and_no_cell():
    (problem,) = find_misfits(table(*ROWS), study())
    assert (problem.level, problem.column, problem.rows) == ("warning", "smiles", (3,))
    assert "20.0% of the rows" in problem.what and "counts as missing" in problem.what
    assert "CC(C" not in problem.what + problem.next_step
    nowhere = [each.what for each in find_misfits(table(("1", "", "no")), study())]
    assert nowhere == ["no structure in any row"]


def test_a_structure_that_only_one_outcome_has_gives_the_answer_away():
    rows = [(str(n), ETHANOL if n % 2 else "", ("no", "yes")[n % 2]) for n in range(40)]
    (found,) = find_giveaways(table(*rows), study())
    assert (found.column, found.by, found.area) == ("smiles", "whether there is a structure", 1.0)
    assert find_giveaways(table(*((row[0], ETHANOL, row[2]) for row in rows)), study()) == ()


def test_structures_are_told_from_names_without_rdkit(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    drugs = [ASPIRIN, CAFFEINE, BENZENE, "C[N+](C)(C)C", "FC(F)(F)Br", "C/C=C/C", "c1cc2ccccc2%10c1C%10"]
    assert look_like_smiles(drugs * 3)
    for names in (["Anna Bauer", "Bo Cohn"], ["aspirin", "caffeine"], ["NO", "CO"], ["2024-01-01", "12"], []):
        assert not look_like_smiles(names)
    rows = [(str(n), "C" * n + "(O)C", "no") for n in range(1, 41)]
    told = {column.name: column for column in describe_columns(table(*rows), "compound")}
    assert told["smiles"].type == "text" and told["smiles"].doubts == ()
    persons = [(row[0], f"person {row[0]}", "no") for row in rows]
    told = {column.name: column for column in describe_columns(table(*persons), "compound")}
    assert "names, or another number of the person" in told["smiles"].doubts[0]
