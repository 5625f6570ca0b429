import sqlite3
from pathlib import Path

import duckdb
import pytest

from fedhealth.errors import DataUnusable
from fedhealth.records.query_trial import check_rows_alone, try_query
from fedhealth.records.source import read_source
from fedhealth.table_source import TableSource

# Two patients of one visit and four of two; numbers as names in a second table, as floats with gaps.
VISITS = [(f"p{n // 2}", n % 7 + 0.5, n) for n in range(10)] + [("q", 1.0, 20), ("Q", 2.0, 21)]
NUMBERS = [(float(n // 2), n) for n in range(10)]
SCRIPT = (
    "CREATE TABLE visits (patient {text}, x {real}, day {real})",
    "CREATE TABLE numbers (patient {real}, x {real})",
    "CREATE VIEW centred AS SELECT patient, x - (SELECT avg(x) FROM visits) AS x FROM visits",
    "CREATE VIEW plain AS SELECT patient, x, day FROM visits",
)


def make(path, connect, types):
    connection = connect(path)
    for line in SCRIPT:
        connection.execute(line.format(**types))
    connection.executemany("INSERT INTO visits VALUES (?, ?, ?)", VISITS)
    connection.executemany("INSERT INTO numbers VALUES (?, ?)", NUMBERS)
    connection.commit()
    connection.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("databases")
    make(folder / "a.duckdb", duckdb.connect, {"text": "VARCHAR", "real": "DOUBLE"})
    make(folder / "a.sqlite", sqlite3.connect, {"text": "TEXT", "real": "REAL"})
    return {"duckdb": folder / "a.duckdb", "sqlite": folder / "a.sqlite"}


ALONE = [
    "SELECT * FROM visits",
    "SELECT patient, x FROM main.visits WHERE x > 1 -- some",
    "SELECT patient, avg(x) AS mean FROM visits GROUP BY patient",
    "SELECT patient, x - avg(x) OVER (PARTITION BY patient) AS x FROM visits",
    "SELECT a.patient, a.x, b.x AS y FROM visits a JOIN visits b ON a.patient = b.patient",
    "SELECT * FROM plain",
    "SELECT * FROM numbers",
]
ON_OTHERS = [
    "SELECT patient, x - (SELECT avg(x) FROM visits) AS x FROM visits",
    "SELECT patient, x, (SELECT count(*) FROM visits) AS n FROM main.visits",
    "SELECT patient, rank() OVER (PARTITION BY 1 ORDER BY patient) AS r FROM visits",
    "SELECT a.patient, a.x, b.x AS y FROM visits a JOIN visits b ON b.day = a.day + 1",
    "SELECT * FROM centred",
    "SELECT patient, x FROM visits WHERE day > (SELECT max(day) - 14 FROM visits)",
]
UNTRIED = [
    "SELECT patient AS person, x FROM visits",
    "SELECT patient || '!' AS patient, x FROM visits",
]


def outcome(files, name, query, column="patient"):
    source = TableSource(files[name], name, query)
    table = read_source(source, strict=True)
    problem = try_query(source, table, column)
    return problem and problem.level, source, table


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
@pytest.mark.parametrize("query", ALONE)
def test_a_query_about_each_patient_alone_passes(files, name, query):
    assert outcome(files, name, query)[0] is None


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
@pytest.mark.parametrize("query", ON_OTHERS)
def test_a_query_whose_rows_rest_on_others_is_found_and_refused(files, name, query):
    level, source, table = outcome(files, name, query)
    assert level == "error"
    with pytest.raises(DataUnusable, match="rows of other patients change"):
        check_rows_alone(source, table, "patient")


OTHER_PLACES = [
    "SELECT patient, x - (SELECT avg(x) FROM a.main.visits) AS x FROM visits",
    "SELECT patient, x - (SELECT avg(x) FROM a.visits) AS x FROM visits",
    "SELECT patient, x - (SELECT avg(x) FROM other.visits) AS x FROM visits",
    "SELECT patient, x - (SELECT m FROM of_all) AS x FROM visits",
]


@pytest.mark.parametrize("query", OTHER_PLACES)
def test_the_patient_is_gone_by_whatever_name_a_table_is_asked(tmp_path, query):
    make(tmp_path / "a.duckdb", duckdb.connect, {"text": "VARCHAR", "real": "DOUBLE"})
    with duckdb.connect(tmp_path / "a.duckdb") as connection:
        connection.execute("CREATE SCHEMA other")
        connection.execute("CREATE TABLE other.visits AS SELECT * FROM main.visits")
        connection.execute("CREATE VIEW of_all AS SELECT avg(x) AS m FROM other.visits")
    assert outcome({"duckdb": tmp_path / "a.duckdb"}, "duckdb", query)[0] == "error"


def test_tables_that_refer_to_each_other_can_be_tried(tmp_path):
    with duckdb.connect(tmp_path / "a.duckdb") as connection:
        connection.execute("CREATE TABLE people (patient VARCHAR PRIMARY KEY, x INTEGER)")
        connection.execute("CREATE TABLE stays (patient VARCHAR REFERENCES people (patient), day INTEGER)")
        connection.execute("INSERT INTO people VALUES ('p', 1), ('q', 2)")
        connection.execute("INSERT INTO stays VALUES ('p', 1), ('q', 2), ('q', 3)")
    files = {"duckdb": tmp_path / "a.duckdb"}
    alone = "SELECT people.patient, x, day FROM people JOIN stays USING (patient)"
    assert outcome(files, "duckdb", alone)[0] is None
    on_others = "SELECT stays.patient, x - (SELECT avg(x) FROM people) AS x FROM people JOIN stays USING (patient)"
    assert outcome(files, "duckdb", on_others)[0] == "error"


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
@pytest.mark.parametrize("query", UNTRIED)
def test_what_cannot_be_tried_is_said_and_not_refused(files, name, query):
    level, source, table = outcome(files, name, query, "person" if "person" in query else "patient")
    assert level == "warning"
    check_rows_alone(source, table, table.columns[0])


def test_a_database_that_is_too_large_to_copy_is_not_tried(files, monkeypatch):
    monkeypatch.setattr("fedhealth.records.query_trial.MOST_BYTES", 100)
    assert outcome(files, "sqlite", ON_OTHERS[0])[0] == "warning"


def test_a_file_without_a_query_needs_no_trial(tmp_path):
    (tmp_path / "a.csv").write_text("patient,x\np,1\n")
    source = TableSource(tmp_path / "a.csv", "csv")
    assert try_query(source, read_source(source, strict=True), "patient") is None


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_a_trial_changes_nothing_and_leaves_nothing_behind(files, name):
    before, names = files[name].read_bytes(), sorted(Path(files[name]).parent.iterdir())
    for query in (ALONE[0], ON_OTHERS[0]):
        outcome(files, name, query)
    assert files[name].read_bytes() == before and sorted(Path(files[name]).parent.iterdir()) == names
