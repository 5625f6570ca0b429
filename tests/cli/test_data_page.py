"""`docs/data.md` is walked as it is written: each command on a site as the page describes it."""

import re
import shlex
import sqlite3
from pathlib import Path

import duckdb
import pytest

from fedhealth.policy.site_file import load_site_file
from fedhealth.records.table import MAX_TABLE_CELLS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
TOML = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
PROTOCOL = Path(__file__).resolve().parents[2] / "protocols" / "heart-disease-diagnosis.toml"


@pytest.fixture
def walk(tmp_path, monkeypatch, fedhealth):
    """Run one command of the page where the page is, as a person who answers what is asked."""
    ward = tmp_path / "sites" / "ward"
    ward.mkdir(parents=True)
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / PROTOCOL.name).write_bytes(PROTOCOL.read_bytes())
    rows = [(f"p{n // 2}", f"2026-01-{n + 1:02}", 40 + n, ("f", "m")[n % 2], n % 3 % 2) for n in range(30)]
    lines = ["patient_id,day,age,sex,ill", *(",".join(map(str, row)) for row in rows)]
    (ward / "visits.csv").write_text("\n".join(lines) + "\n")
    with duckdb.connect(ward / "visits.duckdb") as made:
        made.execute(f"CREATE TABLE visits AS SELECT * FROM read_csv('{ward / 'visits.csv'}')")  # noqa: S608 - our own path
        made.execute(f"COPY visits TO '{ward / 'visits.parquet'}'")
    with sqlite3.connect(ward / "visits.sqlite") as lite:
        lite.execute("CREATE TABLE visits (patient_id, day, age, sex, ill)")
        lite.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", rows)
    lite.close()
    monkeypatch.chdir(tmp_path)
    answers = {"Column": "patient_id", "Name": "icu", "Declared": 300}
    monkeypatch.setattr("typer.prompt", lambda question, **_: answers[question.split()[0]])
    monkeypatch.setattr("typer.confirm", lambda question: True)

    (ward / "site.toml").write_text(TOML)
    return lambda command: fedhealth(*shlex.split(command)[1:])[0]


def test_the_page_has_the_commands_it_speaks_of():
    verbs = [tuple(command.split()[:4]) for command in COMMANDS]
    assert [verbs.count(("fedhealth", "site", "data", verb)) for verb in ("add", "check", "list")] == [4, 2, 1]
    assert len(verbs) == 7


@pytest.mark.parametrize("command", [command for command in COMMANDS if " add " in command])
def test_each_way_of_connecting_a_table_works_as_written(walk, tmp_path, command):
    assert walk(command) == 0
    assert load_site_file(tmp_path / "sites" / "ward").data_set.patient_column == "patient_id"
    for other in COMMANDS:
        if " add " not in other:
            # The page's table is not the heart study's, which the check for that study says with its code.
            assert walk(other) == (4 if "--study" in other else 0), other


def test_the_page_names_the_size_of_the_largest_table():
    assert f"{MAX_TABLE_CELLS:,} cells" in PAGE
