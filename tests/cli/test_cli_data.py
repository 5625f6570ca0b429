"""`fedhealth site data`: what the administrator types, reads and is refused."""

import json
import shutil
import sqlite3
import tomllib
from pathlib import Path

import duckdb
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.policy.site_file import load_site_file
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study

ROOT = Path(__file__).resolve().parents[2]
HEART = ROOT / "protocols" / "heart-disease-diagnosis.toml"
SITE = '# Who we are.\nid = "ward-a"   # our name\ntitle = "Ward A"\n'
PRIVATE_VALUE = "Sicca-9731"
ROWS = [(f"p{n // 2}", 40 + n, ("f", "m")[n % 2], f"note {PRIVATE_VALUE} {n}", None) for n in range(40)]
GIVEN = ("--yes", "--name", "icu", "--declared-patients", "30")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "ward"
    made.mkdir()
    (made / "site.toml").write_text(SITE)
    lines = ["patient_id,age,sex,note,later", *(",".join("" if c is None else str(c) for c in row) for row in ROWS)]
    (made / "visits.csv").write_text("\n".join(lines) + "\n")
    with duckdb.connect(made / "visits.duckdb") as connection:
        connection.execute("CREATE TABLE visits (patient_id TEXT, age INT, sex TEXT, note TEXT, later DOUBLE)")
        connection.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", ROWS)
        connection.execute(f"COPY visits TO '{made / 'visits.parquet'}'")
    with sqlite3.connect(made / "visits.sqlite") as lite:
        lite.execute("CREATE TABLE visits (patient_id, age, sex, note, later)")
        lite.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", ROWS)
    lite.close()
    return made


@pytest.fixture
def data(fedhealth, monkeypatch):
    """Run `fedhealth site data`, typing what is asked; return the exit code and what was said on both streams."""

    def run(*arguments, typed=()):
        answers = list(typed)
        for question in ("typer.prompt", "typer.confirm"):
            monkeypatch.setattr(question, lambda _, **__: answers.pop(0))
        result = fedhealth("site", "data", *arguments)
        assert not answers, "everything that was typed was asked for"
        return result

    return run


TYPES = {"patient_id": "patient", "age": "number", "sex": "category", "note": "text", "later": "blank"}
QUERY = "SELECT * FROM visits"


@pytest.mark.parametrize("file", ["visits.csv", "visits.parquet", "visits.duckdb", "visits.sqlite"])
def test_a_table_of_each_format_is_connected_checked_and_listed(folder, data, file):
    query = ("--query", QUERY) if file.endswith(("duckdb", "sqlite")) else ()
    code, out, err = data("add", folder, folder / file, *query, *GIVEN)
    assert (code, err) == (0, ""), err
    connected = load_site_file(folder).data_set
    assert {column.name: column.type for column in connected.columns} == TYPES
    assert (connected.name, connected.patient_column, connected.declared_patients) == ("icu", "patient_id", 30)
    assert connected.source.file == folder / file and connected.source.query == (QUERY if query else None)
    code, out, _ = data("check", folder)
    assert code == 0 and "can be read as it should be" in out
    code, out, _ = data("list", folder, "--json")
    said = json.loads(out)
    assert code == 0 and said["columns"] == [{"name": name, "type": kind} for name, kind in TYPES.items()]
    code, out, _ = data("list", folder)
    assert code == 0 and "number    age" in out


def test_what_is_written_is_types_alone_and_the_rest_of_the_file_stays(folder, data):
    assert data("add", folder, folder / "visits.csv", *GIVEN)[0] == 0
    written = (folder / "site.toml").read_text()
    assert written.startswith(SITE)
    assert "attested by" in written
    assert tomllib.loads(written)["data_set"] == {
        "name": "icu",
        "file": "visits.csv",
        "patient_column": "patient_id",
        "declared_patients": 30,
        "columns": [{"name": name, "type": kind} for name, kind in TYPES.items()],
    }
    for value in (PRIVATE_VALUE, "79", "p19"):  # a word, the highest age, a patient
        assert value not in written


def test_what_is_shown_fits_a_terminal_and_says_types_gaps_and_doubts(folder, data):
    _, out, _ = data("add", folder, folder / "visits.csv", *GIVEN)
    assert max(map(len, out.splitlines()[:-3])) <= 80  # the last three name a path of this test
    shown = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "category" in shown["sex"] and "100 %" in shown["later"] and "nothing in it" in shown["later"]
    assert "its own text" in " ".join(out.split())
    assert "2.0 rows on average" in out
    assert PRIVATE_VALUE not in out


def test_the_administrator_is_asked_for_what_no_program_knows(folder, data):
    typed = ["patient_id", True, True, "icu", 30]
    code, _, err = data("add", folder, folder / "visits.duckdb", "--query", QUERY, typed=typed)
    assert (code, err) == (0, "")
    written = (folder / "site.toml").read_text()
    assert "names patients, not visits: attested by" in written
    assert "its own patient alone: attested by" in written


@pytest.mark.parametrize("answers", [["patient_id", False], ["patient_id", True, False]])
def test_without_the_attestation_nothing_is_written(folder, data, answers):
    code, out, _ = data("add", folder, folder / "visits.duckdb", "--query", QUERY, typed=answers)
    assert code == 6 and "nothing was written" in out
    assert (folder / "site.toml").read_text() == SITE


# name: (arguments, exit code, words)
REFUSED = {
    "no name": (["{}/visits.csv", "--yes", "--declared-patients", "30"], 3, "--name is missing"),
    "no figure": (["{}/visits.csv", "--yes", "--name", "icu"], 3, "--declared-patients is missing"),
    "a counted figure": (["{}/visits.csv", *GIVEN[:4], "294"], 3, "not a round figure"),
    "a bad name": (["{}/visits.csv", "--yes", "--name", "My ICU", *GIVEN[3:]], 3, "data_set.name"),
    "no such column": (["{}/visits.csv", *GIVEN, "--patient-column", "pid"], 3, "no column 'pid'"),
    "no such file": (["{}/none.csv", *GIVEN], 4, "No such file"),
    "a file outside": (["{}/../outside.csv", *GIVEN], 3, "outside the site's folder"),
    "a link to outside": (["{}/link.csv", *GIVEN], 3, "outside the site's folder"),
    "a database without a query": (["{}/visits.sqlite", *GIVEN], 3, "Give --query"),
    "a query on a file": (["{}/visits.csv", *GIVEN, "--query", QUERY], 3, "exactly where"),
    "a query over everybody": (["{}/visits.sqlite", *GIVEN, "--query", QUERY + " LIMIT 9"], 3, "LIMIT"),
    "a query that writes": (["{}/visits.sqlite", *GIVEN, "--query", "DELETE FROM visits"], 4, "cannot be asked"),
    "another format": (["{}/visits.csv", *GIVEN, "--format", "excel"], 3, "no format 'excel'"),
    "a wrong format": (["{}/visits.csv", *GIVEN, "--format", "parquet"], 4, "cannot be opened as parquet"),
    "no header": (["{}/bare.csv", *GIVEN], 3, "does not look like a table with a header"),
    "no rows": (["{}/empty.csv", *GIVEN], 3, "no rows"),
    "two columns that may": (["{}/two.csv", *GIVEN], 3, "Give --patient-column"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_connected_is_refused_in_one_message_and_nothing_is_written(folder, data, tmp_path, case):
    (tmp_path / "outside.csv").write_text("id,x\n1,2\n")
    (folder / "link.csv").symlink_to(tmp_path / "outside.csv")
    (folder / "bare.csv").write_text(f"{PRIVATE_VALUE},63\nq,64\n")
    (folder / "empty.csv").write_text("id,age\n")
    (folder / "two.csv").write_text("patient,subject\na,b\n")
    arguments, expected, words = REFUSED[case]
    code, _, err = data("add", folder, *(argument.replace("{}", str(folder)) for argument in arguments))
    assert code == expected and words in err
    assert err.count("error:") == 1 and err.count("\n") == 1 and PRIVATE_VALUE not in err
    assert (folder / "site.toml").read_text() == SITE


def test_a_data_set_that_a_ledger_counts_on_stays(folder, data, tmp_path):
    assert data("add", folder, folder / "visits.csv", *GIVEN)[0] == 0
    before = (folder / "site.toml").read_text()
    code, _, err = data("add", folder, folder / "visits.parquet", *GIVEN)
    assert code == 3 and "Give --state" in err
    (tmp_path / "state" / "gate").mkdir(parents=True)
    code, _, err = data("add", folder, folder / "visits.parquet", *GIVEN, "--state", tmp_path / "state")
    assert code == 3 and "the same patients would have a second budget" in err
    assert (folder / "site.toml").read_text() == before
    code, _, err = data("add", folder, folder / "visits.parquet", *GIVEN, "--state", tmp_path / "later")
    assert (code, err) == (0, "")
    assert load_site_file(folder).data_set.source.format == "parquet"


def test_a_ledger_without_a_data_set_beside_it_is_no_way_round(folder, data, tmp_path):
    (tmp_path / "state" / "gate").mkdir(parents=True)
    code, _, err = data("add", folder, folder / "visits.csv", *GIVEN, "--state", tmp_path / "state")
    assert code == 3 and "has a ledger" in err


def test_check_tells_every_broken_line_with_exit_code_4_and_no_value(folder, data):
    assert data("add", folder, folder / "visits.csv", *GIVEN)[0] == 0
    with (folder / "visits.csv").open("a") as file:
        file.write(f"p1,{PRIVATE_VALUE},f,,\np1,50\n")  # lines 42 and 43
    code, out, err = data("check", folder)
    assert code == 4 and err == "" and PRIVATE_VALUE not in out
    said = " ".join(out.split())
    assert "column 'age': text" in said and "(line 42)" in said and "(line 43)" in said
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = data("check", folder, "--json")
    problems = json.loads(out)["problems"]
    assert code == 4 and PRIVATE_VALUE not in out
    errors = [(each["column"], each["rows"]) for each in problems if each["level"] == "error"]
    assert errors == [("", [43]), ("age", [42])]


@pytest.mark.parametrize("signed", [False, True])
def test_check_looks_at_a_study_too(data, tmp_path, signed):
    folder = tmp_path / "hungary"
    shutil.copytree(ROOT / "sites" / "hungary", folder)
    study = HEART
    if signed:
        study = tmp_path / "heart.signed"
        study.write_bytes(sign_study(load_study(HEART), Ed25519PrivateKey.generate()))
    code, out, _ = data("check", folder, "--study", study)
    assert code == 0 and "fits the study" in out and "outside the public range" in " ".join(out.split())
    text = (folder / "patients.csv").read_text()
    (folder / "patients.csv").write_text(text.replace("thalch", "pulse", 1).replace("Male", "MALE"))
    code, out, _ = data("check", folder, "--study", study)
    assert code == 4 and "column 'thalch': the study asks for it" in out
    assert "'Male' is spelled otherwise" in out


def test_check_says_which_feature_gives_the_answer_away(data, tmp_path):
    folder = tmp_path / "hungary"
    shutil.copytree(ROOT / "sites" / "hungary", folder)
    header, *lines = (folder / "patients.csv").read_text().splitlines()
    place = header.split(",").index("oldpeak")
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[place] = "2" if float(row[-1]) > 0 else "1"
    (folder / "patients.csv").write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    code, out, _ = data("check", folder, "--study", HEART)
    assert code == 0 and "column 'oldpeak' nearly tells the outcome by its value alone" in " ".join(out.split())


def test_a_study_that_cannot_be_read_is_one_message(folder, data, tmp_path):
    assert data("add", folder, folder / "visits.csv", *GIVEN)[0] == 0
    for name in ("none.toml", "none.signed"):
        code, _, err = data("check", folder, "--study", tmp_path / name)
        assert code == 3 and err.count("error:") == 1


def test_a_header_that_would_move_the_cursor_is_shown_and_not_obeyed(folder, data):
    (folder / "odd.csv").write_text("patient,\x1b[2Jage,[bold]sex\np,1,f\n")
    for verb in (("add", folder, folder / "odd.csv", *GIVEN), ("check", folder), ("list", folder)):
        code, out, _ = data(*verb)
        assert code == 0 and "\ufffd[2Jage" in out and "[bold]sex" in out and "\x1b" not in out
