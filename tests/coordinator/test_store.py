"""The coordinator's database, on SQLite and on a real PostgreSQL: studies, answers, rounds, receipts, migrations."""

import contextlib
import stat
import subprocess
import sys
import threading
from subprocess import PIPE

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from postgres_server import running_postgres
from sqlalchemy import create_engine, inspect, text

from fedhealth.coordinator.asking import Shown
from fedhealth.coordinator.participation import CompletedRound
from fedhealth.coordinator.store.database import DATABASE_FILE, StoreUnavailable, migrate, open_database
from fedhealth.coordinator.store.runs import Runs
from fedhealth.coordinator.store.studies import Studies
from fedhealth.coordinator.store.tables import Base, StudyState
from fedhealth.errors import ConfigInvalid
from fedhealth.link.frames import Accepted
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study, sign_study

KEY, OTHER_KEY = "ab" * 32, "cd" * 32
ALICE, BOB = (Ed25519PrivateKey.from_private_bytes(bytes([byte]) * 32) for byte in (1, 2))
PROTOCOL = {
    "format": 1,
    "name": "small",
    "title": "A small study",
    "task": "diagnosis",
    "purpose": "To test the store.",
    "legal_basis": "Made-up records.",
    "data_set": "ward",
    "max_records_per_patient": 4,
    "features": [{"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50}],
    "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
    "model": {"kind": "logistic-regression"},
    "training": {"rounds": 3, "learning_rate": 0.5, "l2_clip_norm": 1.0},
    "evaluation": {"held_out_fraction": 0.25},
    "privacy": {"unit": "patient", "delta": 1e-4, "training_epsilon": 2.0, "evaluation_epsilon": 2.0},
}
SITES = ("ward-a", "ward-b")


@pytest.fixture(scope="module")
def server():
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """The URL of an empty database; None is the coordinator's own SQLite file."""
    if request.param == "sqlite":
        yield None
        return
    url = request.getfixturevalue("server")
    yield url
    engine = create_engine(url, connect_args={"client_encoding": "utf8"})
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


@pytest.fixture
def opened(tmp_path, url):
    engines = []

    def close():
        for engine in engines:
            engine.dispose()

    def open_again():
        close()  # one coordinator at a time
        engines.append(open_database(tmp_path, url, KEY))
        return engines[-1]

    yield open_again
    close()


@pytest.fixture
def studies(opened):
    return Studies(opened())


def submit(studies, key=ALICE, at=1000, **changed):
    data = sign_study(Study.model_validate(PROTOCOL | changed), key)
    return studies.submit(open_signed_study(data), data, 30, at)


def approval(study, patients=100):
    return Accepted(
        study=study,
        declared_patients=patients,
        reply_after_ms={"train": 20, "evaluate": 20},
        unsafe_test_site=False,
        signature="00" * 64,
    )


def kinds(studies, digest):
    return [event.body["event"] for event in studies.events(digest)]


def test_a_study_is_there_again_when_the_database_is_opened_again(opened):
    first = submit(Studies(opened()))
    again = Studies(opened()).find(first.digest)
    assert again == first
    assert (again.state, again.name, again.retention_days, again.submitted_at) == (
        StudyState.OFFERED,
        "small",
        30,
        1000,
    )
    assert open_signed_study(again.signed).study.digest == first.digest


def test_the_same_study_again_changes_nothing_and_by_another_researcher_is_refused(studies):
    first = submit(studies)
    assert submit(studies, at=2000) == first
    assert kinds(studies, first.digest) == ["submitted"]
    with pytest.raises(ConfigInvalid, match="submitted by another researcher"):
        submit(studies, BOB)


def test_studies_are_in_the_order_in_which_they_came(studies):
    names = ["one", "two", "three"]
    submitted = [submit(studies, name=name, at=at) for at, name in enumerate(names)]
    assert [study.name for study in studies.all()] == names
    studies.move(submitted[0].digest, StudyState.RUNNING, 1)
    assert [study.name for study in studies.all([StudyState.OFFERED])] == names[1:]


# Where a study is, and where it may go from there.
MOVES = {
    "offered": {"running", "stopped"},
    "running": {"running", "waiting", "stopped", "done"},
    "waiting": {"running", "stopped"},
    "stopped": set(),
    "done": set(),
}
WAY = {
    "offered": [],
    "running": ["running"],
    "waiting": ["running", "waiting"],
    "stopped": ["stopped"],
    "done": ["running", "done"],
}


@pytest.mark.parametrize("there", MOVES)
def test_a_study_moves_only_where_it_may(studies, there):
    for number, to in enumerate(StudyState):
        digest = submit(studies, name=f"study-{number}").digest
        for step in WAY[there]:
            studies.move(digest, StudyState(step), 1)
        if to in MOVES[there]:
            studies.move(digest, to, 2, "why")
            found = studies.find(digest)
            assert (found.state, found.reason) == (to, "why")
            assert studies.events(digest)[-1].body == {"event": to, "reason": "why"}
        else:
            before = studies.events(digest)
            with pytest.raises(ConfigInvalid, match=f"got a study that is {there}"):
                studies.move(digest, to, 2)
            assert (studies.find(digest).state, studies.events(digest)) == (there, before)


def test_no_move_and_no_stop_of_a_study_that_is_not_there(studies):
    with pytest.raises(ConfigInvalid, match="no study abababababab"):
        studies.move("ab" * 32, StudyState.RUNNING, 1)
    with pytest.raises(ConfigInvalid, match="no study"):
        studies.stop("ab" * 32, KEY, "00" * 64, 1)
    assert studies.find("ab" * 32) is None


SECOND = """
import os, sys
from pathlib import Path
from fedhealth.coordinator.store.database import open_database
from fedhealth.errors import ConfigInvalid
try:
    open_database(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
except ConfigInvalid as error:
    sys.exit(f"refused: {error}")
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def second_coordinator(tmp_path, url):
    """Another process with a copy of the same home."""
    command = [sys.executable, "-c", SECOND, str(tmp_path), url, KEY]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.processes
def test_a_second_coordinator_on_one_postgresql_is_refused_until_the_first_is_gone(tmp_path, server):
    with second_coordinator(tmp_path, server) as first:
        assert first.stdout.readline() == "open\n"
        with pytest.raises(ConfigInvalid, match="a coordinator is using this database already"):
            open_database(tmp_path, server, KEY)
        first.kill()  # as kill -9 and power cuts do: nothing is given back
        first.wait()
        open_database(tmp_path, server, KEY).dispose()


@pytest.mark.processes
def test_a_coordinator_that_its_server_forgot_writes_nothing_once_another_one_is_there(tmp_path, server):
    engine = open_database(tmp_path, server, KEY)
    studies = Studies(engine)
    admin = create_engine(server, connect_args={"client_encoding": "utf8"}, isolation_level="AUTOCOMMIT")
    try:
        forget = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"  # a restart does so, too
        with admin.connect() as connection:
            assert connection.execute(text(forget)).scalar_one() is True
        with second_coordinator(tmp_path, server) as second:
            assert second.stdout.readline() == "open\n"
            with pytest.raises(ConfigInvalid, match="a coordinator is using this database already"):
                submit(studies)
        digest = submit(studies).digest  # the other one has ended: this one has the lock again
        assert kinds(studies, digest) == ["submitted"]
    finally:
        engine.dispose()
        admin.dispose()


def test_a_stop_is_kept_with_its_signature_and_is_final(studies, opened):
    digest = submit(studies).digest
    studies.stop(digest, "ee" * 32, "0f" * 64, 7)
    with pytest.raises(ConfigInvalid, match="is stopped"):
        studies.stop(digest, "ee" * 32, "0f" * 64, 8)
    with opened().connect() as connection:
        rows = connection.execute(text("select act, researcher, signature, at from signature order by act")).all()
    assert [row[0] for row in rows] == ["stop", "submit"]
    assert tuple(rows[0]) == ("stop", "ee" * 32, "0f" * 64, 7)


def test_an_approval_stays_whatever_is_answered_later(studies):
    digest = submit(studies).digest
    studies.answered(digest, "ward-a", "not-approved", 1)
    studies.answered(digest, "ward-a", "not-approved", 2)
    studies.answered(digest, "ward-b", "policy", 3)
    assert studies.refusals(digest) == {"ward-a": "not-approved", "ward-b": "policy"}
    studies.answered(digest, "ward-a", approval(digest), 4)
    studies.answered(digest, "ward-a", "busy", 5)
    assert studies.approvals(digest) == {"ward-a": approval(digest)}
    assert studies.refusals(digest) == {"ward-b": "policy"}
    assert kinds(studies, digest) == ["submitted", "not-approved", "not-approved", "approved"]


def test_events_go_on_after_the_last_one_that_was_seen(studies):
    digest, other = submit(studies).digest, submit(studies, name="other").digest
    for number in range(3):
        studies.tell(digest, {"event": "note", "number": number}, 10 + number)
        studies.tell(other, {"event": "else"}, 20)
    seen = studies.events(digest)
    assert [(event.body.get("number"), event.at) for event in seen[1:]] == [(0, 10), (1, 11), (2, 12)]
    assert studies.events(digest, after=seen[1].number) == seen[2:]
    assert studies.events(digest, after=seen[-1].number) == []


def test_a_study_that_is_submitted_twice_at_once_is_there_once(opened):
    engine, together, seen = opened(), threading.Barrier(8), []

    def send():
        together.wait()
        seen.append(submit(Studies(engine)))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [seen[0]] * 8
    assert Studies(engine).all() == seen[:1]


@pytest.fixture
def run(opened):
    """A run that was begun, as (studies, runs, digest)."""
    engine = opened()
    studies, runs = Studies(engine), Runs(engine)
    digest = submit(studies).digest
    runs.begin(digest, "/results", SITES, 50)
    return studies, runs, digest


def done(number, absent=None):
    return CompletedRound(number, number, absent or {})


def test_rounds_say_who_took_part_and_who_was_absent_why(run):
    _, runs, digest = run
    runs.keep_rounds(digest, SITES, [done(1)], "11" * 32, Shown(), None, 1)
    runs.keep_rounds(digest, SITES, [CompletedRound(2, 4, {"ward-b": "away"})], "22" * 32, Shown(), None, 2)
    assert runs.rounds(digest) == [done(1), CompletedRound(2, 4, {"ward-b": "away"})]


def test_rounds_that_are_here_are_left_alone_when_a_run_catches_up_with_its_checkpoint(run):
    _, runs, digest = run
    runs.keep_rounds(digest, SITES, [done(1)], "11" * 32, Shown(), None, 1)
    three = [done(1), done(2, {"ward-a": "busy"}), done(3)]
    runs.keep_rounds(digest, SITES, three, "33" * 32, Shown({"ward-a": ["aa" * 32]}), None, 2)
    runs.keep_rounds(digest, SITES, three, "33" * 32, Shown({"ward-a": ["aa" * 32]}), None, 3)
    assert runs.rounds(digest) == three
    assert runs.unacknowledged(digest) == {"ward-a": ["aa" * 32]}


def test_a_run_whose_checkpoint_is_older_forgets_the_rounds_after_it(run):
    studies, runs, digest = run
    runs.keep_rounds(digest, SITES, [done(1), done(2), done(3)], "33" * 32, Shown(), None, 1)
    runs.rewind(digest, 1, 5)
    assert runs.rounds(digest) == [done(1)]
    runs.rewind(digest, 0, 6)
    assert runs.rounds(digest) == []
    runs.rewind(digest, 0, 7)  # nothing more is lost
    told = [dict(event.body) for event in studies.events(digest) if event.body["event"] == "went-back"]
    assert told == [{"event": "went-back", "from": 3, "round": 1}, {"event": "went-back", "from": 1, "round": 0}]


def test_a_receipt_is_waited_for_until_it_was_given(run):
    _, runs, digest = run
    a, b, c = "aa" * 32, "bb" * 32, "cc" * 32
    runs.keep_rounds(digest, SITES, [done(1)], "11" * 32, Shown({"ward-a": [a], "ward-b": [b]}), None, 1)
    runs.keep_rounds(digest, SITES, [done(2)], "22" * 32, Shown({"ward-a": [c]}, [a]), {"event": "round"}, 2)
    assert runs.unacknowledged(digest) == {"ward-a": [c], "ward-b": [b]}
    runs.finish(digest, Shown(acknowledged=[b, c]), 9)
    assert runs.unacknowledged(digest) == {}
    assert runs.find(digest).finished_at == 9


def test_a_round_is_kept_whole_or_not_at_all(run):
    studies, runs, digest = run
    before = studies.events(digest)
    with pytest.raises(TypeError):  # an event that is no JSON, last of all that the round writes
        runs.keep_rounds(digest, SITES, [done(1)], "11" * 32, Shown({"ward-a": ["aa" * 32]}), {"event": object()}, 1)
    assert runs.rounds(digest) == []
    assert runs.unacknowledged(digest) == {}
    assert studies.events(digest) == before


def test_a_run_is_begun_once_and_then_gone_on_with_in_its_folder(run):
    _, runs, digest = run
    again = runs.begin(digest, "/elsewhere", ["ward-c"], 99)
    assert (again.folder, again.sites, again.starts, again.started_at) == ("/results", SITES, 2, 50)
    assert again.finished_at is None
    assert again.counts is None


def test_counts_are_kept_to_the_last_bit_before_a_site_may_drop_them(run):
    _, runs, digest = run
    counts = {"ward-a": {"true-positive": 0.1 + 0.2, "false-positive": -1e-17}}
    runs.keep_counts(digest, counts, {"ward-b": "away"}, Shown({"ward-a": ["aa" * 32]}), 5)
    found = runs.find(digest)
    assert (found.counts, found.absent) == (counts, {"ward-b": "away"})
    assert runs.unacknowledged(digest) == {"ward-a": ["aa" * 32]}


def test_the_newest_head_of_each_site_is_kept(run):
    _, runs, digest = run
    runs.keep_rounds(digest, SITES, [done(1)], "11" * 32, Shown(heads={"ward-a": "1", "ward-b": "1"}), None, 1)
    runs.keep_rounds(digest, SITES, [done(2)], "22" * 32, Shown(heads={"ward-b": "2"}), None, 2)
    assert runs.heads(digest) == {"ward-a": "1", "ward-b": "2"}


def test_what_was_removed_leaves_that_it_was(run):
    studies, runs, digest = run
    runs.keep_rounds(digest, SITES, [done(1)], "11" * 32, Shown({"ward-a": ["aa" * 32]}), None, 1)
    runs.remove(digest, 77)
    assert (runs.find(digest), runs.rounds(digest), runs.unacknowledged(digest)) == (None, [], {})
    assert studies.find(digest).removed_at == 77
    assert (studies.events(digest)[-1].body, studies.events(digest)[-1].at) == ({"event": "results-removed"}, 77)


def test_two_researchers_who_submit_at_once_get_two_places(opened):
    engine, together, failed = opened(), threading.Barrier(2), []

    def send(key, name):
        together.wait()
        try:
            submit(Studies(engine), key, name=name)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=each) for each in ((ALICE, "one"), (BOB, "two"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(study.name for study in Studies(engine).all()) == ["one", "two"]


def test_migrations_from_empty_and_the_mapping_agree(opened):
    with opened().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_the_comparison_would_find_a_column_that_no_migration_makes(opened):
    engine = opened()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE study DROP COLUMN reason"))
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert [(difference[0], difference[3].name) for difference in found] == [("add_column", "reason")]


def test_migrations_can_be_taken_back_to_nothing(opened):
    from fedhealth.coordinator.store import database

    with opened().begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(database._MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
        migrate(connection)
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_a_database_that_a_newer_version_migrated_is_left_alone(opened):
    with opened().begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="9999"):
        opened()


def test_a_database_belongs_to_one_coordinator_and_a_refusal_leaves_no_lock(tmp_path, url, opened):
    opened().dispose()
    with pytest.raises(ConfigInvalid, match="belongs to another coordinator"):
        open_database(tmp_path, url, OTHER_KEY)
    opened()


def test_sqlite_is_durable_private_and_holds_to_its_foreign_keys(tmp_path):
    engine = open_database(tmp_path, None, KEY)
    with engine.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}  # 2 is FULL
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    for path in tmp_path.glob(DATABASE_FILE + "*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    engine.dispose()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("not a url", "[Cc]ould not parse"),
        ("mysql://somewhere/db", "mysql"),
        ("sqlite:///elsewhere.sqlite", "postgresql\\+psycopg://"),
        ("postgresql+psycopg://coordinator@/none?host=/nowhere", "/nowhere"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(tmp_path, wrong, named):
    with pytest.raises((ConfigInvalid, StoreUnavailable), match=named):
        open_database(tmp_path, wrong, KEY)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / DATABASE_FILE).write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreUnavailable, match=DATABASE_FILE):
        open_database(tmp_path, None, KEY)
