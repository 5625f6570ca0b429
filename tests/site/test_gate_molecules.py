"""A gate whose study reads molecules: no cell is told by what the gate answers, writes in its log, or by a failure."""

import logging

import numpy as np
import pytest
from small_study import protocol

from fedhealth.learning.steps import STEPS
from fedhealth.link.frames import ReleaseReply
from fedhealth.site.running_site import quiet_seconds, reading_seconds

pytest.importorskip("rdkit", reason="RDKit is not installed (extra `molecules`)")

FEATURE = {
    "kind": "molecule",
    "column": "dose",  # a column that the table of this hospital has before a test writes another
    "fingerprints": [{"size": 64}],
    "descriptors": [{"name": "logp", "range": [-4, 7]}],
    "missing_indicator": True,
}
STUDY = protocol(features=[FEATURE], max_records_per_patient=2)
OTHERS = "".join(f"p{n},{'C' * (1 + n)}O,{n % 2}\n" for n in range(20))
CELLS = {
    "a drug": "CC(=O)Oc1ccccc1C(=O)O",
    "nothing": "",
    "no structure": "C1CC(SECRET",
    "very long": "C" * 100_000,
    "a byte that is not UTF-8": "C\udce9",
}


def transcript(site, cell):
    """Return kind, length and time of each reply, and the sizes of the ledger, of a table with this patient."""
    rows = "id,dose,ill\n" + OTHERS + (f"p20,{cell},1\n" if cell is not None else "")
    site.csv.write_bytes(rows.encode("utf-8", "surrogateescape"))
    site.reopen(lambda step, *arguments: STEPS[step.name](step, *arguments))
    said = []
    for step, number in (("train", 1), ("train", 2), ("evaluate", 1)):
        weights = np.full(67, 0.5).tobytes()
        reply = site.ask(step, number, weights)
        assert isinstance(reply[0], ReleaseReply)
        said.append((type(reply[0]), len(reply[1]), reply[2], site.entries))
    return said


def test_no_cell_changes_what_the_other_side_can_see_or_stands_in_a_log(hospital, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    without = transcript(hospital("without", study=STUDY), None)
    for name, cell in CELLS.items():
        assert transcript(hospital(name.replace(" ", "-"), study=STUDY), cell) == without, name
    assert "SECRET" not in caplog.text + "".join(capfd.readouterr())


def test_a_gate_is_quiet_longer_for_molecules_by_public_figures_alone():
    # 1 s, 100 microseconds for each patient twice, and 5 ms for each of at most two structures of a patient:
    # 1 + 300 * (0.0001 * 2 + 0.005 * 2) = 4.06.
    assert reading_seconds(STUDY) == pytest.approx(0.01) and reading_seconds(protocol()) == 0
    assert quiet_seconds(300, 1, reading_seconds(STUDY)) == pytest.approx(4.06)
