"""A confined gate reads its data set in every format, and a query of its site file reads nothing else."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from fedhealth.site.landlock import landlock_abi

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux") or landlock_abi() == 0, reason="Landlock is Linux's"),
]
READS = """
import json, sys
from pathlib import Path
from fedhealth.site.confinement import confine_gate
root = Path(sys.argv[1])
if sys.argv[2] == "gate":
    confine_gate(root / "site", root / "state")
from fedhealth.errors import FedHealthError
from fedhealth.policy.site_file import load_site_file
from fedhealth.records.source import read_source
found = {}
for name, lines in json.loads(sys.argv[3]).items():
    folder = root / "site" / name
    try:
        found[name] = [row for _, row in read_source(load_site_file(folder).data_set.source, strict=True).rows]
    except FedHealthError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""
SITES = {
    "csv": 'file = "a.csv"',
    "parquet": 'file = "a.parquet"',
    "duckdb": 'file = "a.duckdb"\nquery = "SELECT * FROM v"',
    "sqlite": 'file = "a.sqlite"\nquery = "SELECT * FROM v"',
    "in the log of a writer that was killed": 'file = "b.duckdb"\nquery = "SELECT * FROM v"',
    "elsewhere by duckdb": 'file = "a.duckdb"\nquery = "SELECT * FROM read_text(\'{other}\')"',
    "elsewhere by sqlite": 'file = "a.sqlite"\nquery = "SELECT readfile(\'{other}\')"',
    "elsewhere by a link": 'file = "link.csv"',
}
ROW = [["p", "1.5"]]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "state" / "gate").mkdir(parents=True)
    other = tmp_path / "other.csv"
    other.write_text("id,x\nq,2\n")
    for name, lines in SITES.items():
        folder = tmp_path / "site" / name
        folder.mkdir(parents=True)
        (folder / "site.toml").write_text(
            'id = "ward"\ntitle = "Ward"\n[data_set]\nname = "ward"\npatient_column = "id"\ndeclared_patients = 30\n'
            + lines.format(other=other)
        )
        (folder / "a.csv").write_text("id,x\np,1.5\n")
        (folder / "link.csv").symlink_to(other)
        with duckdb.connect(folder / "a.duckdb") as made:
            made.execute("CREATE TABLE v AS SELECT 'p' AS id, 1.5::DOUBLE AS x")
            made.execute(f"COPY v TO '{folder / 'a.parquet'}'")
        with duckdb.connect(folder / "b.duckdb") as made:
            made.execute("PRAGMA disable_checkpoint_on_shutdown")
            made.execute("CREATE TABLE v AS SELECT 'p' AS id, 1.5::DOUBLE AS x")
        assert (folder / "b.duckdb.wal").exists()
        with sqlite3.connect(folder / "a.sqlite") as lite:
            lite.execute("CREATE TABLE v (id, x)")
            lite.execute("INSERT INTO v VALUES ('p', 1.5)")
        lite.close()
        for path in folder.iterdir():
            path.chmod(0o444)
        folder.chmod(0o555)
    yield tmp_path
    for folder in (tmp_path / "site").iterdir():
        folder.chmod(0o755)


@pytest.mark.parametrize("role", ["gate", "nothing"])
def test_a_gate_reads_every_format_and_no_query_or_link_leads_out_of_its_folder(root, role):
    before = sorted(root.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", READS, str(root), role, json.dumps(SITES)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: found.pop(name) for name in list(found) if name.startswith("elsewhere")} == {
        "elsewhere by duckdb": "DataUnusable",
        "elsewhere by sqlite": "DataUnusable",
        "elsewhere by a link": "ConfigInvalid",
    }
    assert found == dict.fromkeys(found, ROW) and len(found) == 5
    assert [path for path in sorted(root.rglob("*")) if path not in before and path.name != "tmp"] == []
