"""What an administrator is told of a study's images, and what becomes of a record whose image cannot be read."""

import numpy as np
import pytest
from small_study import protocol

from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.records import images
from fedhealth.records.columns import describe_columns
from fedhealth.records.study_fit import find_giveaways, find_misfits
from fedhealth.records.table import Table, prepare_records

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra `imaging`)")
pytest.importorskip("nibabel", reason="nibabel is not installed (extra `imaging`)")

SIZE = 64


def study(**changes):
    feature = {
        "kind": "image",
        "column": "scan",
        "shape": [SIZE, SIZE],
        "window": [0, 255],
        "inputs": {"kind": "pixels"},
    }
    return protocol(features=[feature | changes], max_records_per_patient=2)


def head():
    """Return a made-up slice: a grey disk with soft edges and a little noise."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    disk = 120 / (1 + np.exp((np.hypot(x, y) - SIZE / 3) / 2))
    return (disk + np.random.default_rng(0).uniform(0, 5, disk.shape)).astype(np.uint8)


LETTER = np.array([[1, 0, 0, 0, 1], [1, 1, 0, 1, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1]], np.uint8)


def with_name(image):
    """Return a slice with four letters in its corner."""
    image = image.copy()
    for number in range(4):
        image[1:6, 1 + 7 * number : 6 + 7 * number] = 255 * LETTER
    return image


@pytest.fixture
def table(tmp_path):
    """Return a table of nine patients, and write their images."""
    np.save(tmp_path / "good.npy", head())
    np.save(tmp_path / "named.npy", with_name(head()))
    np.save(tmp_path / "small.npy", head()[:32])
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm"))
    dataset.BurnedInAnnotation = "YES"
    dataset.save_as(tmp_path / "says.dcm")
    cells = ["good.npy", "good.npy", "named.npy", "small.npy", "SECRET.npy", "", "says.dcm", "small.npy", "SECRET.npy"]
    rows = [(f"p{n}", cell, str(n % 2)) for n, cell in enumerate(cells)]
    rows[8] = ("p8", "SECRET.npy", "")  # has no outcome, and is not in the study
    return Table(tmp_path / "patients.csv", ("id", "scan", "ill"), tuple(enumerate(rows, 2)))


def test_a_check_names_the_rows_by_what_is_wrong_and_no_cell(table):
    problems = find_misfits(table, study())
    found = [(each.level, each.column, each.what, each.rows) for each in problems]
    # Seven of the eight records in the study have an image; 2 of 7 are 28.6 %, 1 of 7 is 14.3 %.
    assert found == [
        (
            "error",
            "scan",
            "28.6% of the images cannot be used, each because it has another size than the study asks for",
            (5, 9),
        ),
        ("error", "scan", "14.3% of the images cannot be used, each because there is no such file", (6,)),
        (
            "warning",
            "scan",
            "14.3% of the images have sharp bright marks at the border, as text has",
            (4,),
        ),
        ("warning", "scan", "14.3% of the images say that text is burned into them", (8,)),
    ]
    assert not any("SECRET" in each.what + each.next_step for each in problems)


def test_an_approval_stops_at_such_a_row_and_after_it_the_record_is_not_a_number(table):
    with pytest.raises(DataUnusable, match=r"the image of line 5, column 'scan' .* another size") as refused:
        prepare_records(table, study(), "id", bytes(32), strict=True)
    assert "small.npy" not in str(refused.value)
    sides = prepare_records(table, study(), "id", bytes(32), strict=False)
    features = np.concatenate([side.features for side in sides])
    assert features.shape == (8, SIZE * SIZE) and features.dtype == np.float32
    unread = np.isnan(features)
    assert unread.all(axis=1).sum() == 3 and unread.any(axis=1).sum() == 3


def test_a_patient_s_inputs_do_not_depend_on_the_others(table):
    def by_patient(rows):
        sides = prepare_records(Table(table.path, table.columns, rows), study(), "id", bytes(32), strict=False)
        return sorted(row.tobytes() for side in sides for row in side.features)

    whole = by_patient(table.rows)
    for gone in range(8):
        rest = by_patient(table.rows[:gone] + table.rows[gone + 1 :])
        left = list(whole)
        for each in rest:
            left.remove(each)
        assert len(left) == 1


def test_where_no_record_has_an_image_or_only_one_outcome_has_that_is_said(table):
    blank = Table(table.path, table.columns, tuple((line, (row[0], "", row[2])) for line, row in table.rows))
    assert [each.what for each in find_misfits(blank, study())] == ["no image in any record of the study"]
    rows = tuple((n, (f"p{n}", "good.npy" if n % 2 else "", str(n % 2))) for n in range(40))
    (told,) = find_giveaways(Table(table.path, table.columns, rows), study())
    assert str(told) == "column 'scan' nearly tells the outcome by whether there is an image alone (AUC 1.00)"


def test_names_of_image_files_are_not_taken_for_names_of_persons(tmp_path):
    (tmp_path / "scans").mkdir()
    for number in range(30):
        (tmp_path / "scans" / f"{number}").mkdir()
    rows = tuple((n, (f"p{n}", f"scans/{n}", f"Name {n}", f"../{tmp_path.name}/scans/{n}")) for n in range(30))
    columns = describe_columns(Table(tmp_path / "a.csv", ("id", "scan", "name", "out"), rows), "id")
    assert columns[1].doubts == () and all("names" in column.doubts[0] for column in columns[2:])


def test_without_its_packages_no_image_is_read_whatever_the_cells_are(table, monkeypatch):
    # Else whether the gate is busy would tell of one patient's file.
    monkeypatch.setattr(images, "find_spec", lambda package: None if package == "pydicom" else True)
    images.check_readers.cache_clear()
    one = Table(table.path, table.columns, ((2, ("p0", "good.npy", "0")),))
    with pytest.raises(
        ConfigInvalid, match=r"pydicom is not installed\. Install it: pip install 'fedhealth\[imaging\]'"
    ):
        prepare_records(one, study(), "id", bytes(32), strict=False)
