"""How a table becomes hospitals: what each of them gets, and which tables are refused with what words."""

import pytest
from wards import COLUMNS, PROTOCOL, patients, write_table

from fedhealth.config import parse_toml
from fedhealth.errors import DataUnusable
from fedhealth.records.table import read_table
from fedhealth.simulation.hospitals import Split, split_table
from fedhealth.study.protocol import Study

STUDY = parse_toml(PROTOCOL.encode(), "falls.toml", Study, "study protocol")
SPLIT = Split("ward", "person")


def split(tmp_path, rows, split=SPLIT, columns=COLUMNS, study=STUDY):
    return split_table(read_table(write_table(tmp_path / "all.csv", rows, columns), strict=True), study, split)


def test_a_hospital_has_the_table_that_it_would_have_in_a_file_of_its_own(tmp_path):
    rows = patients()
    made = split(tmp_path, rows)
    assert [site.file.id for site in made.sites] == ["north", "south-east", "west"]
    assert made.titles["south-east"] == "South East"
    for site in made.sites:
        own = [row[1:] for row in rows if row[0] == site.file.title]
        alone = read_table(write_table(tmp_path / "own.csv", own, COLUMNS[1:]), strict=True)
        assert (site.table.columns, site.table.rows) == (alone.columns, alone.rows)


def test_the_public_figure_is_the_number_of_patients_rounded_to_two_digits(tmp_path):
    rows = [("a", f"p{n}", 50, "no", n % 2) for n in range(303)] + [("b", f"q{n}", 50, "no", n % 2) for n in range(45)]
    rows += [("b", f"q{n}", 60, "no", 0) for n in range(45)]  # a second record of each
    assert split(tmp_path, rows).declared_patients == {"a": 300, "b": 45}
    assert split(tmp_path, rows, Split("ward", "person", 400)).declared_patients == {"a": 400, "b": 400}


def test_no_two_hospitals_share_a_secret_and_a_seed_gives_the_same_ones(tmp_path):
    one, two = split(tmp_path, patients()), split(tmp_path, patients())
    secrets = [key for site in one.sites for key in (site.split_key, site.naming_secret)]
    assert len(set(secrets)) == 6
    assert secrets == [key for site in two.sites for key in (site.split_key, site.naming_secret)]


def test_without_a_patient_column_every_row_is_a_patient_and_says_so(tmp_path):
    made = split(tmp_path, patients(), Split("ward"))
    assert "every row counts as a patient" in made.warnings[0]
    assert made.declared_patients == {"north": 40, "south-east": 40, "west": 40}


def test_a_patient_in_two_hospitals_is_warned_of(tmp_path):
    rows = patients()
    rows[0] = ("North", "moved", *rows[0][2:])
    rows[1] = ("west", "moved", *rows[1][2:])
    (warning,) = split(tmp_path, rows).warnings
    assert warning.startswith("1 patients are in more than one hospital")


def changed(place, **cells):
    rows = patients()
    rows[place] = tuple(cells.get(name, cell) for name, cell in zip(COLUMNS, rows[place], strict=True))
    return rows


REFUSED = {
    "a site column that is not there": (
        patients(),
        Split("wards", "person"),
        r"no column 'wards'.*--site-column 'ward'",
    ),
    "a patient column that is not there": (patients(), Split("ward", "persons"), r"--patient-column 'person'"),
    "a blank site": (changed(3, ward=""), SPLIT, r"1 rows of .* name no hospital; got .*line 5"),
    "one site only": ([row for row in patients() if row[0] == "west"], SPLIT, r"one hospital only; got 'west'"),
    "only one site that is large enough": (
        [row for row in patients() if row[0] == "west" or row[1].endswith("1")],
        SPLIT,
        r"at least 20 patients; got 2 smaller ones in column 'ward': 'North' \(4\), 'South East' \(4\)",
    ),
    "two sites of one id": (changed(3, ward="NORTH"), SPLIT, r"'NORTH' and 'North', both 'north'"),
    "text where a number must be": (changed(3, age="old"), SPLIT, r"line 5, column 'age'"),
}


@pytest.mark.parametrize(("rows", "by", "says"), REFUSED.values(), ids=REFUSED)
def test_refuses(tmp_path, rows, by, says):
    with pytest.raises(DataUnusable, match=says):
        split(tmp_path, rows, by)


def test_a_table_without_the_endpoint_is_refused(tmp_path):
    rows = [row[:-1] for row in patients()]
    with pytest.raises(DataUnusable, match=r"wanted also fell"):
        split(tmp_path, rows, columns=COLUMNS[:-1])


def test_a_site_that_is_too_small_is_left_out_by_name(tmp_path):
    found = split(tmp_path, [row for row in patients() if row[0] != "North" or row[1].endswith("1")])
    assert [site.file.id for site in found.sites] == ["south-east", "west"] == list(found.sides)
    assert found.too_small == ("north",)
    assert any("fewer than 20 patients: North" in warning for warning in found.warnings)
