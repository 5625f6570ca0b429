"""What connecting a data set does to site.toml, and that none of it gets into what leaves the gate."""

import re
import sqlite3
import tomllib
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.link.frames import AskHead, PutStudy, ReleaseReply, pack
from fedhealth.policy.site_file import load_site_file
from fedhealth.records.columns import Column
from fedhealth.records.table import prepare_records
from fedhealth.site import prepared_studies
from fedhealth.site.data_set import Connection, check_figure, connect_data_set
from fedhealth.study.signature import sign_study
from fedhealth.table_source import TableSource


def connection(folder, file="visits.csv", **changes):
    values = {
        "source": TableSource(folder.resolve() / file, "csv"),
        "name": "icu",
        "patient_column": "id",
        "declared_patients": 30,
        "columns": (Column("id", "patient", 0.0, ()), Column("age", "number", 0.5, ("doubt",))),
    }
    return Connection(**values | changes)


WHOLE = """# Who we are.
id = "ward-a"   # our name
title = "Ward A"

[data_set]   # the ward's table
name = "old"     # since 2019
query = "SELECT 1"
format = "sqlite"
file = "a.db"    # made each night
patient_column = "nr"
# a round figure
declared_patients = 10

[[data_set.columns]]
name = "nr"
type = "patient"
"""


def test_a_data_set_is_changed_where_it_changes_and_comments_stay(tmp_path):
    (tmp_path / "site.toml").write_text(WHOLE)
    (tmp_path / "site.toml").chmod(0o640)
    connect_data_set(tmp_path, connection(tmp_path))
    text = (tmp_path / "site.toml").read_text()
    kept = [line for line in WHOLE.splitlines() if line.startswith(("#", "id", "title", "[data_set]"))]
    assert [line for line in text.splitlines() if line in kept] == kept
    assert re.search('name = "icu" +# since 2019', text) and re.search('file = "visits.csv" +# made each night', text)
    assert tomllib.loads(text)["data_set"] == {
        "name": "icu",
        "file": "visits.csv",
        "patient_column": "id",
        "declared_patients": 30,
        "columns": [{"name": "id", "type": "patient"}, {"name": "age", "type": "number"}],
    }
    assert (tmp_path / "site.toml").stat().st_mode & 0o777 == 0o640


ODD = {
    "an inline table": 'id = "w"\ntitle = "W"\ndata_set = { name = "a", file = "a.csv" }\npublic_data = false\n',
    "dotted keys": 'id = "w"\ntitle = "W"\ndata_set.name = "a"\ndata_set.file = "a.csv"\n',
    "no line end": '[data_set]\nname = "a"\n[other]',
    "columns in a line": 'id = "w"\ntitle = "W"\n[data_set]\ncolumns = [{ name = "x", type = "text" }]\nname = "a"\n',
    "lines of Windows": 'id = "w"\r\ntitle = "W"\r\n[data_set]\r\nname = "a" # old\r\n',
}


@pytest.mark.parametrize("case", ODD)
def test_a_file_written_in_another_way_is_edited_rightly_or_not_at_all(tmp_path, case):
    (tmp_path / "site.toml").write_bytes(ODD[case].encode())
    try:
        connect_data_set(tmp_path, connection(tmp_path))
    except ConfigInvalid:
        assert case == "no line end"  # an unknown table in it
        assert (tmp_path / "site.toml").read_bytes() == ODD[case].encode()
    else:
        data_set = load_site_file(tmp_path).data_set
        assert (data_set.name, data_set.file.name, len(data_set.columns)) == ("icu", "visits.csv", 2)


NAMES = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() == text)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=1, max_size=5, unique=True), condition=st.text(max_size=40))
def test_any_column_name_and_any_query_are_written_as_they_are(tmp_path, names, condition):
    (tmp_path / "site.toml").write_text('id = "w"\ntitle = "W"\n')
    query = f"SELECT *\nFROM v WHERE note <> '{condition.replace(chr(39), '')}'".strip()
    types = ("patient", *["text"] * (len(names) - 1))
    columns = tuple(Column(name, kind, 0.0, ()) for name, kind in zip(names, types, strict=True))
    made = connection(
        tmp_path,
        source=TableSource(tmp_path.resolve() / "a.db", "sqlite", query),
        patient_column=names[0],
        columns=columns,
    )
    connect_data_set(tmp_path, made)
    data_set = load_site_file(tmp_path).data_set
    assert [column.name for column in data_set.columns] == names
    assert data_set.source.query == query


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "site.toml").write_text(WHOLE)

    def power_cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        connect_data_set(tmp_path, connection(tmp_path))
    assert (tmp_path / "site.toml").read_text() == WHOLE
    monkeypatch.undo()
    connect_data_set(tmp_path, connection(tmp_path))  # what the first left does not stand in the way
    assert load_site_file(tmp_path).data_set.name == "icu"


def test_a_site_file_does_not_grow_beyond_what_is_read(tmp_path):
    (tmp_path / "site.toml").write_text(WHOLE)
    columns = (Column("id", "patient", 0.0, ()), *(Column(f"gene {n}", "number", 0.0, ()) for n in range(6000)))
    with pytest.raises(ConfigInvalid, match="6001 columns"):
        connect_data_set(tmp_path, connection(tmp_path, columns=columns))
    assert (tmp_path / "site.toml").read_text() == WHOLE
    connect_data_set(tmp_path, connection(tmp_path, columns=columns[:3000]))
    assert len(load_site_file(tmp_path).data_set.columns) == 3000


@pytest.mark.parametrize("figure", [1, 7, 10, 45, 300, 450, 12000, 10**6])
def test_a_round_figure_may_be_declared(figure):
    check_figure(figure)


@pytest.mark.parametrize("figure", [0, -30, 101, 294, 1230, 999])
def test_a_figure_that_looks_counted_may_not(figure):
    with pytest.raises(ConfigInvalid, match="not a round figure"):
        check_figure(figure)


CANARIES = ("Canary-File", "canary_schema", "canary_column", "canary-value")


def test_nothing_of_a_data_set_gets_into_a_frame(ward, make_csv, make_protocol, steps, tmp_path):
    site = ward(name="one", unsafe_noise_seed=1)
    header, *lines = make_csv().splitlines()
    with duckdb.connect(site.folder / "Canary-File.duckdb") as made:
        made.execute("CREATE SCHEMA canary_schema")
        made.execute("CREATE TABLE canary_schema.visits (id TEXT, age INT, dose INT, ill INT, canary_column TEXT)")
        made.executemany(
            "INSERT INTO canary_schema.visits VALUES (?, ?, ?, ?, 'canary-value')", [line.split(",") for line in lines]
        )
    types = dict.fromkeys(header.split(","), "number") | {"id": "patient", "canary_column": "category"}
    source = TableSource(site.folder.resolve() / "Canary-File.duckdb", "duckdb", "SELECT * FROM canary_schema.visits")
    columns = tuple(Column(name, kind, 0.0, ()) for name, kind in types.items())
    connect_data_set(site.folder, Connection(source, "ward", "id", 30, columns))
    of_csv = ward(name="two", unsafe_noise_seed=1)
    study = make_protocol()
    left = [frames_of(each, study, steps["counting"]) for each in (site, of_csv)]
    assert all(canary.encode() in (site.folder / "site.toml").read_bytes() for canary in CANARIES[:3])
    assert not [canary for canary in CANARIES for frame in left[0] if canary.encode() in frame]
    # All but the first, which states a public duration that is measured and so may have another number of digits.
    assert [len(frame) for frame in left[0][1:]] == [len(frame) for frame in left[1][1:]]


def test_an_approval_warns_of_a_feature_that_gives_the_answer_away(ward, make_csv, make_protocol, steps):
    lines = [line.split(",") for line in make_csv().splitlines()]
    told = [lines[0], *([name, age, str(5 + 2 * int(ill)), ill] for name, age, _, ill in lines[1:])]
    for text, expected in ((make_csv(), ()), ("\n".join(map(",".join, told)) + "\n", ("dose",))):
        site = ward(text, name=f"of-{len(expected)}")
        _, seen = site.approve(make_protocol(), steps["noise_only"])
        assert (
            tuple(word for each in seen.warnings for word in ("dose", "age") if f"'{word}' nearly" in each) == expected
        )


def test_a_query_whose_rows_rest_on_several_patients_is_not_approved(ward, make_csv, make_protocol, steps):
    site = ward()
    header, *lines = make_csv().splitlines()
    with sqlite3.connect(site.folder / "a.sqlite") as made:
        made.execute(f"CREATE TABLE visits ({header})")
        made.executemany("INSERT INTO visits VALUES (?, ?, ?, ?)", [line.split(",") for line in lines])
    made.close()
    before = site.traces
    for age, expected in (("age - (SELECT avg(age) FROM visits)", False), ("age + 1", True)):
        query = f"SELECT id, {age} AS age, dose, ill FROM visits"  # noqa: S608
        source = TableSource(site.folder.resolve() / "a.sqlite", "sqlite", query)
        connect_data_set(site.folder, Connection(source, "ward", "id", 30, ()))
        if expected:
            site.approve(make_protocol(), steps["noise_only"])
        else:
            with pytest.raises(DataUnusable, match="rows of other patients change"):
                site.approve(make_protocol(), steps["noise_only"])
            assert site.traces == before
    assert site.traces != before


def frames_of(site, study, compute):
    """Approve a study, run a round, and return every frame that left the gate."""
    site.approve(study, compute)
    gate, ledger = site.open_gate(compute)
    left, handle = [], gate.handle

    def recorded(frame):
        reply = handle(frame)
        left.append(bytes(reply.frame))
        return reply

    gate.handle = recorded
    gate.handle(pack(PutStudy(), sign_study(study, site.researcher)))
    gate.handle(pack(AskHead(since=0)))
    for number in (1, 2):
        assert isinstance(site.ask(gate, ledger, study, number=number)[0], ReleaseReply)
    ledger.close()
    assert len(left) >= 4
    return left


def test_records_that_are_read_otherwise_have_another_noise_key(ward, make_csv, make_protocol, steps, monkeypatch):
    # What a cell only points to, or another version of what reads it, changes a sum and not the table: the same noise
    # on both sums would tell their difference.
    here, study, versions = ward(), make_protocol(), []
    here.approve(study, steps["noise_only"])
    for factor in (1.0, 1.0, 1.0 + 2**-52):

        def read(*arguments, factor=factor, **options):
            sides = prepare_records(*arguments, **options)
            return tuple(replace(side, features=side.features * factor) for side in sides)

        monkeypatch.setattr(prepared_studies, "prepare_records", read)
        gate, ledger = here.open_gate(steps["noise_only"])
        gate.prepare(sign_study(study, here.researcher))
        versions.append(gate._prepared.versions[study.digest])
        assert versions[-1].startswith(gate._prepared.data_version)
        ledger.close()
    assert versions[0] == versions[1] != versions[2]
