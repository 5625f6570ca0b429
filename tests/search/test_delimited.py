"""CSV as hospitals' programs write it: read as it is meant, or not at all."""

import pytest

from fedhealth.errors import ConfigInvalid
from fedhealth.search.readers.people import read_people
from fedhealth.search.readers.tables import read_tables
from fedhealth.search.search_file import People, Tables

ROWS = [["id", "durée, jours", "conclusion"], ["p1", "3", "Fièvre; toux, 38,5"], ["p2", "4", 'Dit "rien"|']]


def written(sign, rows=ROWS):
    def quoted(cell):
        return '"' + cell.replace('"', '""') + '"' if any(each in cell for each in f'{sign}"\n') else cell

    return "".join(sign.join(map(quoted, row)) + "\r\n" for row in rows)


@pytest.fixture
def read(tmp_path):
    """Write a table and read it; return its documents' texts, and problems as (place, level, words)."""

    def reading(raw, **options):
        (tmp_path / "r.csv").write_bytes(raw)
        columns = {"patient_column": "id", "text_columns": ["durée, jours", "conclusion"]}
        source = Tables(name="r", reader="table", path="r.csv", **(columns | options))
        found = list(read_tables(source, tmp_path))
        texts = {each.patient: each.text for each in found if hasattr(each, "text")}
        return texts, [(each.place, each.level, each.what) for each in found if hasattr(each, "level")]

    return reading


READ = {"p1": "durée, jours: 3\nconclusion: Fièvre; toux, 38,5", "p2": 'durée, jours: 4\nconclusion: Dit "rien"|'}


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "bar"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_the_columns_asked_for_tell_what_stands_between_cells(read, sign, encoding):
    texts, problems = read(written(sign).encode(encoding))
    assert texts == READ
    assert {level for _, level, _ in problems} == ({"noted"} if encoding == "cp1252" else set())


def test_excels_own_first_line_is_no_header(read):
    assert read(b"sep=;\r\n" + written(";").encode())[0] == READ


def test_a_stated_encoding_holds_for_every_cell_and_a_wrong_one_is_refused_whole(read):
    raw = written(";", [*ROWS, ["Hélène", "5", "Ça va"]]).encode("cp1252")
    assert read(raw, encoding="windows-1252")[0] == READ | {"Hélène": "durée, jours: 5\nconclusion: Ça va"}
    texts, ((_, level, what),) = read(raw, encoding="utf-8")
    assert (texts, level, "other bytes near line 1" in what) == ({}, "source", True)
    # nobody states it: what is text is told by its letters, who a patient is is not
    texts, problems = read(raw)
    assert (texts, [(place, level) for place, level, _ in problems if level != "noted"]) == (
        READ,
        [("line 4", "left out")],
    )


@pytest.mark.parametrize(
    ("text", "options", "what"),
    [
        ("id;conclusion\np1;x\n", {}, "no column 'durée, jours' (2 columns, 2 of them asked for, with semicolons"),
        (written(";"), {"delimiter": ","}, "with commas between"),
        ("id,id\n1,2\n", {"text_columns": ["id"]}, "column 'id' twice"),
        ('id;conclusion;"durée, jours"\np1;"x;y\n', {}, "quotes that do not pair, near line 2"),
        ("", {}, "no column 'id'"),
    ],
    ids=["missing", "wrong sign", "twice", "quotes", "empty"],
)
def test_what_cannot_be_read_as_meant_is_not_read(read, text, options, what):
    texts, ((_, level, said),) = read(text.encode(), **options)
    assert (texts, level) == ({}, "source")
    assert what in said


def test_of_a_hundred_thousand_columns_those_asked_for_are_held(read):
    others = [f"x{number}" for number in range(100_000)]
    text = ";".join(["id", *others, "conclusion", "durée, jours"]) + "\n" + ";".join(["p1", *others, "fin", "1"]) + "\n"
    assert read(text.encode())[0] == {"p1": "durée, jours: 1\nconclusion: fin"}


def test_a_table_of_people_is_read_so_too_and_other_forms_have_no_signs(tmp_path):
    (tmp_path / "p.csv").write_text("Prénom;id;sexe\nX, Y;p1;F\n", encoding="cp1252")
    people = read_people(People(path="p.csv", patient_column="id", sex_column="sexe"), tmp_path)
    assert people["p1"].sex == "female"
    with pytest.raises((ValueError, ConfigInvalid), match="of CSV files"):
        People(path="p.parquet", patient_column="id", delimiter=";")
