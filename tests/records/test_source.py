import math
import sqlite3
import struct
import subprocess
import sys
from decimal import Decimal

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhealth.errors import DataUnusable
from fedhealth.records.source import cell_of, read_source
from fedhealth.records.table import prepare_records
from fedhealth.study.protocol import Study
from fedhealth.table_source import TableSource, format_of

KEY = bytes(range(32))
STUDY = Study.model_validate(
    {
        "format": 1,
        "name": "heart",
        "title": "t",
        "task": "diagnosis",
        "purpose": "p",
        "legal_basis": "l",
        "data_set": "icu",
        "max_records_per_patient": 2,
        "features": [
            {"kind": "number", "column": "age", "unit": "years", "range": [20, 100], "impute": 60},
            {
                "kind": "number",
                "column": "dose",
                "unit": "mg",
                "range": [-1, 1],
                "impute": 0,
                "missing_indicator": True,
            },
            {"kind": "category", "column": "sex", "categories": ["f", "m"], "missing_indicator": True},
        ],
        "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0.5, "positive": "ill"},
        "model": {"kind": "logistic-regression"},
        "training": {"rounds": 3, "learning_rate": 1.0, "l2_clip_norm": 1.0},
        "evaluation": {"held_out_fraction": 0.25},
        "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 1.0, "evaluation_epsilon": 1.0},
    }
)
COLUMNS = {"nr": "BIGINT", "id": "VARCHAR", "age": "BIGINT", "dose": "DOUBLE", "sex": "VARCHAR", "ill": "BIGINT"}
QUERY = "SELECT * FROM visits"
PRIVATE_VALUE = "Sicca-9731"


def insertion(columns):
    return f"INSERT INTO visits VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - of this file's own words


def write_duckdb(path, rows, columns=COLUMNS):
    path.unlink(missing_ok=True)
    with duckdb.connect(path) as connection:
        connection.execute(f"CREATE TABLE visits ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")
        if rows:
            connection.executemany(insertion(columns), rows)
    return TableSource(path, "duckdb", QUERY)


def write_parquet(path, rows, columns=COLUMNS):
    with duckdb.connect(write_duckdb(path.with_suffix(".made"), rows, columns).file) as connection:
        connection.execute(f"COPY visits TO '{path}' (FORMAT parquet)")
    return TableSource(path, "parquet")


def write_sqlite(path, rows, columns=COLUMNS):
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE visits ({', '.join(columns)})")
    connection.executemany(insertion(columns), rows)
    connection.commit()
    connection.close()
    return TableSource(path, "sqlite", QUERY)


def write_csv(path, rows, columns=COLUMNS):
    lines = [columns, *(["" if cell is None else str(cell) for cell in row] for row in rows)]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    return TableSource(path, "csv")


WRITERS = {"csv": write_csv, "parquet": write_parquet, "duckdb": write_duckdb, "sqlite": write_sqlite}
DATABASES = {"duckdb": write_duckdb, "sqlite": write_sqlite}
TYPED = {name: WRITERS[name] for name in ("parquet", "duckdb", "sqlite")}


def records(source, *, strict=True):
    return prepare_records(read_source(source, strict=strict), STUDY, "id", KEY, strict=strict)


def bits(sides):
    return [
        (side.features.tobytes(), side.labels.tobytes(), side.patients.tobytes(), side.patient_count) for side in sides
    ]


FINITE = st.floats(allow_nan=False, allow_infinity=False)
VISITS = st.lists(
    st.tuples(
        st.none() | st.sampled_from(["p1", "p2", "Müller", "7", "07"]),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | FINITE | st.floats(-1, 1),
        st.none() | st.sampled_from(["f", "m", "x"]),
        st.none() | st.integers(0, 2),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VISITS)
def test_one_table_in_four_formats_gives_the_same_records_bit_for_bit(tmp_path, visits):
    rows = [(number, *row) for number, row in enumerate(visits)]
    of_csv, *others = (bits(records(write(tmp_path / f"data.{name}", rows))) for name, write in WRITERS.items())
    assert all(other == of_csv for other in others)


@given(FINITE | st.floats(-(2.0**60), 2.0**60).map(float.__round__).map(float))
def test_a_number_comes_back_with_the_same_bits(number):
    assert struct.pack("<d", float(cell_of(number))) == struct.pack("<d", number)


@pytest.mark.parametrize(
    "value, cell",
    [
        (None, ""),
        (math.nan, ""),
        (12.0, "12"),  # a column of whole numbers with gaps; the patient "12" stays the patient "12"
        (12, "12"),
        (0.1, "0.1"),
        (-0.0, "-0"),
        (2.0**53, "9007199254740992.0"),  # its neighbour is the same number as a float, so it is no whole number
        (2**70, "1180591620717411303424"),
        (math.inf, "inf"),  # no number to a study, as in a CSV file
        (True, "1"),
        (False, "0"),
        (Decimal("12.50"), "12.5"),
        (Decimal("1200"), "1200"),
        (Decimal("1E+3"), "1000"),
        ("  two words ", "two words"),
        (b"\x00a", "x'0061'"),
    ],
)
def test_a_value_becomes_a_cell(value, cell):
    assert cell_of(value) == cell


def test_every_type_of_duckdb_can_be_read(tmp_path):
    expected = {
        "DATE '2020-02-01'": "2020-02-01",
        "TIMESTAMP '2020-02-01 10:00:00'": "2020-02-01 10:00:00",
        "TIMESTAMPTZ '2020-02-01 10:00:00+02'": "2020-02-01 08:00:00+00",  # in UTC wherever the gate stands
        "1::TINYINT": "1",
        "255::UTINYINT": "255",
        "0.5::FLOAT": "0.5",
        "0.1::FLOAT": "0.10000000149011612",  # the nearest float of 32 bits, exactly
        "1.50::DECIMAL(9, 2)": "1.5",
        "true": "1",
        "NULL": "",
        "'nan'::DOUBLE": "",
        "[1, 2]": "[1, 2]",
        "'\\x00a'::BLOB": "x'0061'",
        "'low'::ENUM('low', 'high')": "low",
    }
    source = write_duckdb(tmp_path / "a.duckdb", [])
    query = "SELECT " + ", ".join(f"{text} AS c{number}" for number, text in enumerate(expected))
    table = read_source(TableSource(source.file, "duckdb", query), strict=True)
    assert table.rows == ((1, tuple(expected.values())),)


@pytest.mark.parametrize("name", DATABASES)
def test_a_query_gives_its_rows_in_one_order_however_they_are_stored(tmp_path, name):
    rows = [(number % 5, f"p{number % 3}", number % 2 or None, number / 7, "f", 1) for number in range(40)]
    tables = [
        read_source(DATABASES[name](tmp_path / f"{order}.{name}", rows[::order]), strict=True).rows for order in (1, -1)
    ]
    assert tables[0] == tables[1]
    assert [cells[0] for _, cells in tables[0]] == sorted(str(row[0]) for row in rows)
    assert [number for number, _ in tables[0]] == list(range(1, 41))


@pytest.mark.parametrize("name", DATABASES)
def test_numbers_of_a_query_are_ordered_by_size_and_blanks_come_first(tmp_path, name):
    rows = [(number, "p", None, None, None, 1) for number in (10, 9, None, -2)]
    table = read_source(DATABASES[name](tmp_path / f"a.{name}", rows), strict=True)
    assert [cells[0] for _, cells in table.rows] == ["", "-2", "9", "10"]


def test_the_order_does_not_depend_on_what_a_database_takes_for_equal(tmp_path):
    for name, collation in (("duckdb", "COLLATE NOCASE"), ("sqlite", "COLLATE NOCASE")):
        found = []
        for words in (["b", "B", "A", "a"], ["a", "A", "B", "b"]):
            file = tmp_path / f"{''.join(words)}.{name}"
            connection = {"duckdb": duckdb, "sqlite": sqlite3}[name].connect(file)
            connection.execute(f"CREATE TABLE visits (id TEXT {collation})")
            connection.executemany("INSERT INTO visits VALUES (?)", [[word] for word in words])
            connection.commit()
            connection.close()
            found.append([cells[0] for _, cells in read_source(TableSource(file, name, QUERY), strict=True).rows])
        assert found == [["A", "B", "a", "b"]] * 2


def test_records_that_a_type_takes_for_equal_keep_one_order(tmp_path):
    # With one record a patient, which of two is read would else depend on how the others lie in the file.
    values = [("1 month", "0.0"), ("30 days", "0.0"), ("30 days", "-0.0"), ("1 month", "-0.0")]
    read = []
    for name, stored in (("a", values), ("b", values[::-1])):
        with duckdb.connect(tmp_path / f"{name}.duckdb") as connection:
            connection.execute("CREATE TABLE visits (id VARCHAR, stay INTERVAL, dose DOUBLE)")
            connection.executemany("INSERT INTO visits VALUES ('p', ?::INTERVAL, ?::DOUBLE)", stored)
        read.append(read_source(TableSource(tmp_path / f"{name}.duckdb", "duckdb", QUERY), strict=True).rows)
    assert read[0] == read[1] and len({cells for _, cells in read[0]}) == 4


def test_a_parquet_file_keeps_its_order(tmp_path):
    rows = [(number, "p", None, None, None, 1) for number in (10, 9, 11)]
    assert [cells[0] for _, cells in read_source(write_parquet(tmp_path / "a.parquet", rows), strict=True).rows] == [
        "10",
        "9",
        "11",
    ]


def test_a_path_is_one_file_whatever_signs_it_has(tmp_path):
    folder = tmp_path / "year=2020"
    folder.mkdir()
    source = write_parquet(folder / "a[1]*.parquet", [(1, "p", 1, 1.0, "f", 1)])
    assert read_source(source, strict=True).columns == tuple(COLUMNS)  # no column 'year' out of the folder's name


def test_a_broken_cell_is_nan_for_its_patient_and_changes_nobody_else(tmp_path):
    others = [(number, f"q{number}", 20 + number, 0.5, "f", number % 2) for number in range(1, 30)]
    broken = [(0, "p", PRIVATE_VALUE, 0.5, "f", 1), *others]
    source = write_sqlite(tmp_path / "a.sqlite", broken)
    with pytest.raises(DataUnusable, match="row 1, column 'age'") as refusal:
        records(source)
    assert PRIVATE_VALUE not in str(refusal.value)
    found = records(source, strict=False)
    without = records(write_sqlite(tmp_path / "b.sqlite", others), strict=False)
    (side,) = [number for number in (0, 1) if found[number].patient_count > without[number].patient_count]
    assert math.isnan(found[side].features[0, 0])
    assert np.array_equal(found[side].features[1:], without[side].features)
    assert np.array_equal(found[1 - side].features, without[1 - side].features)


def test_text_that_is_not_utf_8_is_refused_before_approval_and_keeps_patients_apart_after(tmp_path):
    source = write_sqlite(tmp_path / "a.sqlite", [])
    connection = sqlite3.connect(source.file)
    for name in ("Müller", "Möller", "Mäller"):
        connection.execute("INSERT INTO visits VALUES (1, CAST(? AS TEXT), 1, 1, 'f', 1)", [name.encode("latin-1")])
    connection.commit()
    connection.close()
    with pytest.raises(DataUnusable, match=r"row 1, column 'id' of .* is not in UTF-8"):
        records(source)
    assert sum(side.patient_count for side in records(source, strict=False)) == 3


def asked(source, query):
    return read_source(TableSource(source.file, source.format, query), strict=True)


OUTSIDE = {
    "duckdb": [
        "SELECT * FROM read_text('{other}')",
        "SELECT * FROM '{other}'",
        "SELECT * FROM read_csv('{other}')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM sqlite_scan('{other}', 't')",
        "SELECT * FROM 'https://example.org/a.csv'",
        "ATTACH '{other}' AS o",
        "COPY visits TO '{folder}/out.csv'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "CREATE TABLE made (x INT)",
        "DELETE FROM visits",
        "EXPORT DATABASE '{folder}/out'",
        "SELECT 1; COPY visits TO '{folder}/out.csv'",
        "PRAGMA version",
        "",
    ],
    "sqlite": [
        "ATTACH '{other}' AS o",
        "ATTACH ':memory:' AS o",
        "SELECT load_extension('{other}')",
        "SELECT readfile('{other}')",
        "PRAGMA query_only = OFF",
        "SELECT * FROM pragma_database_list",
        "CREATE TABLE made (x)",
        "CREATE TEMP TABLE made (x)",
        "DELETE FROM visits",
        "VACUUM INTO '{folder}/out.sqlite'",
        "SELECT 1; DELETE FROM visits",
        "BEGIN",
        "",
    ],
}


@pytest.mark.parametrize("name, query", [(name, query) for name, queries in OUTSIDE.items() for query in queries])
def test_a_query_reads_its_own_file_and_nothing_else(tmp_path, name, query):
    source = DATABASES[name](tmp_path / f"a.{name}", [(1, "p", 1, 1.0, "f", 1)])
    other = write_csv(tmp_path / "other.csv", [(1, "p", 1, 1.0, "f", 1)]).file
    before, names = source.file.read_bytes(), sorted(tmp_path.iterdir())
    with pytest.raises(DataUnusable):
        asked(source, query.format(other=other, folder=tmp_path))
    assert source.file.read_bytes() == before and sorted(tmp_path.iterdir()) == names


@pytest.mark.parametrize("name", DATABASES)
def test_a_query_may_end_with_a_semicolon_or_a_comment(tmp_path, name):
    source = DATABASES[name](tmp_path / f"a.{name}", [(1, "p", 1, 1.0, "f", 1)])
    for end in (";", " -- all of them", " /* all */ ;\n"):
        assert len(asked(source, QUERY + end).rows) == 1


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("query", ["SELEC 1", "SELECT nothing FROM visits", "SELECT * FROM nowhere"])
def test_a_query_that_cannot_be_asked_says_what_is_wrong_with_its_words(tmp_path, name, query):
    source = DATABASES[name](tmp_path / f"a.{name}", [])
    with pytest.raises(DataUnusable, match=r"cannot be asked.*(SELEC|nothing|nowhere)"):
        asked(source, query)


def test_a_conversion_that_fails_shows_no_value(tmp_path):
    source = write_duckdb(tmp_path / "a.duckdb", [(1, PRIVATE_VALUE, 1, 1.0, "f", 1)])
    with pytest.raises(DataUnusable, match="TRY_CAST") as refusal:
        asked(source, "SELECT CAST(id AS DOUBLE) AS id FROM visits")
    assert PRIVATE_VALUE not in str(refusal.value)
    assert refusal.value.__cause__ is None and refusal.value.__suppress_context__
    assert asked(source, "SELECT TRY_CAST(id AS DOUBLE) AS id FROM visits").rows == ((1, ("",)),)


def test_a_sqlite_file_with_a_log_beside_it_is_refused_until_the_writer_is_gone(tmp_path):
    source = write_sqlite(tmp_path / "a.sqlite", [(1, "p", 1, 1.0, "f", 1)])
    writer = sqlite3.connect(source.file)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO visits VALUES (2, 'q', 1, 1.0, 'f', 1)")
    writer.commit()
    for strict in (True, False):
        with pytest.raises(DataUnusable, match=r"being changed.*VACUUM INTO"):
            read_source(source, strict=strict)
    writer.close()
    assert len(read_source(source, strict=True).rows) == 2
    assert not list(tmp_path.glob("a.sqlite-*")), "reading leaves nothing beside the file"


def test_a_sqlite_file_in_the_middle_of_a_transaction_is_refused(tmp_path):
    source = write_sqlite(tmp_path / "a.sqlite", [(1, "p", 1, 1.0, "f", 1)])
    writer = sqlite3.connect(source.file, isolation_level=None)
    writer.execute("PRAGMA cache_spill = 1")
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("BEGIN IMMEDIATE")
    writer.executemany("INSERT INTO visits VALUES (?, 'q', 1, 1.0, 'f', 1)", [(n,) for n in range(5000)])
    with pytest.raises(DataUnusable, match="being changed"):
        read_source(source, strict=True)
    writer.execute("ROLLBACK")
    writer.close()
    assert len(read_source(source, strict=True).rows) == 1


def test_a_sqlite_file_that_changes_while_it_is_read_is_refused(tmp_path):
    from fedhealth.records.sqlite_file import opened_file

    source = write_sqlite(tmp_path / "a.sqlite", [(1, "p", 1, 1.0, "f", 1)])
    with pytest.raises(DataUnusable, match="being changed"), opened_file(source) as (_, rows):
        next(rows)
        write_sqlite(tmp_path / "a.sqlite", [(2, "q", 1, 1.0, "f", 1)])


@pytest.mark.processes
def test_a_duckdb_file_that_a_program_writes_to_is_refused(tmp_path):
    source = write_duckdb(tmp_path / "a.duckdb", [(1, "p", 1, 1.0, "f", 1)])
    script = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(source.file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(DataUnusable, match="another program writes to"):
            read_source(source, strict=True)
        writer.stdin.close()
    assert len(read_source(source, strict=True).rows) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_larger_than_a_gate_holds_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.setattr("fedhealth.records.table.MAX_TABLE_CELLS", 60)
    monkeypatch.setattr("fedhealth.records.source.MAX_TABLE_CELLS", 60)
    rows = [(number, "p", 1, 1.0, "f", 1) for number in range(11)]  # of 6 cells
    assert len(read_source(WRITERS[name](tmp_path / f"a.{name}", rows[:10]), strict=True).rows) == 10
    with pytest.raises(DataUnusable, match=r"too large.*more than 60 cells"):
        read_source(WRITERS[name](tmp_path / f"b.{name}", rows), strict=False)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A whole file of each format, of 90 records."""
    folder = tmp_path_factory.mktemp("sound")
    rows = [(number, f"p{number // 3}", number, number / 7, "f", number % 2) for number in range(90)]
    sources = {name: write(folder / f"a.{name}", rows) for name, write in WRITERS.items()}
    return {name: (source, source.file.read_bytes()) for name, source in sources.items()}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=30)
@given(data=st.data())
def test_a_damaged_file_is_a_table_or_a_clear_refusal(sound, name, data):
    source, content = sound[name]
    damaged = bytearray(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 7]))])
    for place in data.draw(
        st.lists(st.integers(-400, 400), max_size=8)
    ):  # where formats keep what they say of themselves
        damaged[place % len(damaged)] = data.draw(st.integers(0, 255))
    source.file.write_bytes(damaged)
    try:
        assert read_source(source, strict=False).columns
    except DataUnusable as refusal:
        assert source.file.name in str(refusal)


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_without_rows_is_refused_before_approval_only(tmp_path, name):
    source = WRITERS[name](tmp_path / f"a.{name}", [])
    with pytest.raises(DataUnusable, match="no rows"):
        read_source(source, strict=True)
    assert read_source(source, strict=False).rows == ()


@pytest.mark.parametrize("name", TYPED)
def test_a_file_of_another_kind_or_none_is_refused(tmp_path, name):
    query = QUERY if name in DATABASES else None
    (tmp_path / "text").write_text("id,age\n1,2\n" * 100)
    for file, reason in (("text", "another kind"), ("none", "No such file"), (".", "a folder, a pipe or a device")):
        with pytest.raises(DataUnusable, match=reason):
            read_source(TableSource(tmp_path / file, name, query), strict=False)


def test_a_column_twice_is_refused(tmp_path):
    source = write_sqlite(tmp_path / "a.sqlite", [(1, "p", 1, 1.0, "f", 1)])
    with pytest.raises(DataUnusable, match="names a column twice"):
        asked(source, "SELECT id, id FROM visits")


def test_a_gate_with_a_csv_file_loads_no_database():
    script = "import sys, fedhealth.records.source as s; sys.exit(bool({'duckdb', 'sqlite3'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize(
    "name, expected",
    [("a.csv", "csv"), ("a.PARQUET", "parquet"), ("a.duckdb", "duckdb"), ("a.sqlite3", "sqlite"), ("a.txt", "csv")],
)
def test_the_end_of_a_name_says_the_format(tmp_path, name, expected):
    assert format_of(tmp_path / name) == expected
