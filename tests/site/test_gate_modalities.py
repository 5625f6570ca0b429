"""A hospital without a scanner: what its administrator sees before approving, and what its gate then answers."""

import numpy as np
import pytest
from small_study import PROTOCOL

from fedhealth.errors import DataUnusable
from fedhealth.learning.steps import STEPS
from fedhealth.link.frames import ReleaseReply
from fedhealth.study.protocol import Study

VOLUME = {"kind": "number", "column": "volume", "unit": "ml", "range": [0, 10], "impute": 5}
MODALITIES = [
    {"name": "imaging", "columns": ["volume"], "may_be_absent": True},
    {"name": "clinical", "columns": ["age", "dose"]},
]
STUDY = Study.model_validate(
    PROTOCOL | {"features": [*PROTOCOL["features"], VOLUME], "model": {"kind": "fusion", "modalities": MODALITIES}}
)
ABSENT = (
    "modality 'imaging' is absent: the table has no column of it (volume). "
    "This hospital's patients take part with the other modalities, as the protocol allows."
)


def test_an_administrator_sees_that_a_modality_is_absent_and_can_approve(ward, steps):
    here = ward()
    approved, seen = here.approve(STUDY, steps["noise_only"])
    assert ABSENT in seen.warnings
    assert "imaging" not in approved.model_dump_json()


def test_an_administrator_sees_how_many_records_lack_a_modality(ward, make_csv, steps):
    lines = make_csv().splitlines()
    scanned = [f"{line},{'' if number % 4 else 7}" for number, line in enumerate(lines[1:])]
    here = ward("\n".join([f"{lines[0]},volume", *scanned]) + "\n")
    _, seen = here.approve(STUDY, steps["noise_only"])
    # 6 of the 24 patients have been scanned.
    assert any(warning.startswith("75.0% of the records have no 'imaging'.") for warning in seen.warnings)
    assert ABSENT not in seen.warnings


def test_a_table_without_what_must_be_there_cannot_be_approved(ward, steps):
    rows = "".join(f"p{number},{number % 2},5\n" for number in range(24))
    with pytest.raises(DataUnusable, match="lacks what study") as refused:
        ward("id,ill,volume\n" + rows).approve(STUDY, steps["noise_only"])
    assert refused.value.wanted == "also age, dose"


def release(here, step, weights):
    header, body, _ = here.ask(step, 1, np.array(weights).tobytes())
    assert isinstance(header, ReleaseReply)
    return np.frombuffer(body, dtype="<i8")


def test_its_gate_releases_noise_alone_of_the_tower_that_it_has_no_part_in(hospital, steps):
    real = hospital("real", study=STUDY, compute=lambda step, *arguments: STEPS[step.name](step, *arguments))
    noise = hospital("noise", study=STUDY, compute=steps["noise_only"])  # under the same secrets
    # Towers in the order of the modalities: the volume's weight and bias, then those of age and dose, and their bias.
    added = release(real, "train", [0.5, 0.5, 0.0, 0.0, 3.0]) - release(noise, "train", [0.5, 0.5, 0.0, 0.0, 3.0])
    assert added[:2].tolist() == [0, 0]
    # Called ill with log odds of 3, half of them are not: the bias is pulled down.
    assert added[4] > 0
