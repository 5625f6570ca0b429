"""Crashes, both ways: lost before, and kept after, the write."""

import os
import resource
import signal

import apsw
import pytest
from hospital_ledger import payload_of

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.verify import verify_ledger

RELEASES = 6


def live(hospital, acknowledge, before_statement=lambda number: None):
    """Open the ledger and go through releases; `acknowledge` is called after each durable step."""
    ledger = hospital.open()
    executed = 0

    def count(*_):
        nonlocal executed
        executed += 1
        before_statement(executed)
        return True

    ledger._database.exec_trace = count
    for number in range(RELEASES):
        release = hospital.charge(number).release
        ledger.reserve(hospital.charge(number))
        acknowledge(f"reserved {number}")
        ledger.witness(hospital.receipt(ledger))
        acknowledge(f"witnessed {number}")
        ledger.store(release, b"%d" % number * 3000, [JournalNote(kind="alert", text="x", at=1)])
        acknowledge(f"stored {number}")
    return ledger, executed


def in_a_child(body):
    """Run `body(acknowledge)` in a real process and return what it acknowledged, and how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            body(lambda text: os.write(writer, text.encode() + b"\n"))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as lines:
        acknowledged = lines.read().splitlines()
    return acknowledged, os.waitpid(child, 0)[1]


def check_nothing_acknowledged_is_lost(hospital, acknowledged):
    order = {"reserved": 0, "witnessed": 1, "stored": 2}
    verified = verify_ledger(hospital.path)
    ledger = hospital.open()
    reached = {}
    for line in acknowledged:
        state, number = line.split()
        reached[int(number)] = state
    for number, state in reached.items():
        row = ledger.row(hospital.charge(number).release)
        assert row is not None and order[row.state] >= order[state]
        stored = b"%d" % number * 3000 if row.state == "stored" else None
        assert payload_of(ledger, hospital.charge(number).release) == stored
    spent = ledger.account.spent(hospital.study, "training")
    charged = spent.mu_squared if spent else 0
    assert len(reached) <= charged <= len(reached) + 1, "at most the one in flight is charged unacknowledged"
    assert verified.releases == charged
    ledger.reserve(hospital.charge(99))  # and it goes on
    ledger.close()
    assert verify_ledger(hospital.path).releases == charged + 1


def prepared(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    ledger.close()


@pytest.mark.parametrize("statement", [1, 2, 3, 4, 5, 7, 9, 12, 15, 20, 30, 45, 60, 80])
def test_kill_9_before_any_statement_loses_no_acknowledged_charge(hospital, statement):
    prepared(hospital)

    def die(number):
        if number == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    acknowledged, status = in_a_child(lambda acknowledge: live(hospital, acknowledge, die))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    check_nothing_acknowledged_is_lost(hospital, acknowledged)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 8, 9, 17])
def test_kill_9_right_after_an_acknowledged_step_keeps_it(hospital, step):
    prepared(hospital)

    def body(acknowledge):
        steps = 0

        def acknowledge_and_die(text):
            nonlocal steps
            steps += 1
            acknowledge(text)
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

        live(hospital, acknowledge_and_die)

    acknowledged, _ = in_a_child(body)
    assert len(acknowledged) == step
    check_nothing_acknowledged_is_lost(hospital, acknowledged)


@pytest.mark.parametrize("statement", [1, 3, 5, 8])
def test_kill_9_during_creation_leaves_a_whole_ledger_or_none(hospital, monkeypatch, statement):
    import fedhealth.privacy.ledger_database as module

    executed = 0
    connect = module.connect

    def traced(*arguments):
        def count(*_):
            nonlocal executed
            executed += 1
            if executed == statement:
                os.kill(os.getpid(), signal.SIGKILL)
            return True

        connection = connect(*arguments)
        connection.exec_trace = count
        return connection

    monkeypatch.setattr(module, "connect", traced)
    _, status = in_a_child(lambda acknowledge: hospital.create())
    assert os.WIFSIGNALED(status)
    monkeypatch.setattr(module, "connect", connect)
    if not hospital.path.exists():
        hospital.create().close()
    hospital.open().close()
    verify_ledger(hospital.path)


@pytest.mark.parametrize("room", [0, 1000, 9000, 20_000, 40_000])
def test_a_full_disk_closes_the_ledger_and_keeps_what_was_acknowledged(hospital, room):
    """A real write fails: the kernel refuses to let a file grow beyond `room` bytes."""
    prepared(hospital)

    def body(acknowledge):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        ledger = hospital.open()
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        try:
            for number in range(40):
                ledger.reserve(hospital.charge(number))
                acknowledge(f"reserved {number}")
        except LedgerDamaged:
            acknowledge("refused 0")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try:  # the disk has room again, and still this process must not go on
            ledger.reserve(hospital.charge(50))
        except LedgerDamaged:
            acknowledge("closed 0")

    acknowledged, status = in_a_child(body)
    assert status == 0 and acknowledged[-2:] == ["refused 0", "closed 0"]
    check_nothing_acknowledged_is_lost(hospital, acknowledged[:-2])


class FailingCommit:
    """A database whose next transaction fails, before its commit or after it."""

    def __init__(self, database, after):
        self._database, self._after = database, after

    def __getattr__(self, name):
        return getattr(self._database, name)

    def __enter__(self):
        return self._database.__enter__()

    def __exit__(self, *error):
        full = apsw.FullError("database or disk is full")
        if self._after:
            self._database.__exit__(*error)
        else:
            self._database.__exit__(apsw.FullError, full, None)
        raise full


@pytest.mark.parametrize("after", [False, True], ids=["lost before the write", "kept after the write"])
@pytest.mark.parametrize("step", ["append", "reserve", "witness", "store", "note"])
def test_a_failed_commit_closes_the_ledger_and_what_is_reopened_is_whole(hospital, step, after):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    ledger.reserve(hospital.charge(0))
    if step == "store":
        ledger.witness(hospital.receipt(ledger))
    calls = {
        "append": lambda: ledger.append(hospital.approval(hospital.other_study)),
        "reserve": lambda: ledger.reserve(hospital.charge(1)),
        "witness": lambda: ledger.witness(hospital.receipt(ledger)),
        "store": lambda: ledger.store(hospital.charge(0).release, b"payload"),
        "note": lambda: ledger.note(JournalNote(kind="alert", text="x", at=1)),
    }
    database, head = ledger._database, ledger.head()
    ledger._database = FailingCommit(database, after)
    with pytest.raises(LedgerDamaged, match="could not be written"):
        calls[step]()
    ledger._database = database
    for call in calls.values():
        with pytest.raises(LedgerDamaged, match="closed"):
            call()
    ledger.close()
    verify_ledger(hospital.path)
    ledger = hospital.open()
    assert (ledger.head() == head) == (not after or step in ("witness", "note"))
    assert (hospital.other_study in ledger.account.approved) == (after and step == "append")
    assert (ledger.row(hospital.charge(1).release) is not None) == (after and step == "reserve")
    wanted = {"witness": "witnessed", "store": "stored"}.get(step) if after else None
    assert ledger.row(hospital.charge(0).release).state == (wanted or ("witnessed" if step == "store" else "reserved"))
    assert len(list(ledger.journal())) == (after and step == "note")
    ledger.reserve(hospital.charge(2))
    ledger.close()
    verify_ledger(hospital.path)


def test_a_table_that_cannot_grow_refuses_the_charge_and_rolls_all_of_it_back(hospital):
    prepared(hospital)
    ledger = hospital.open()
    ledger._database.execute("PRAGMA max_page_count = 1")  # SQLite raises it to the pages there are
    head = ledger.head()
    number = 0
    with pytest.raises(LedgerDamaged, match="could not be written"):
        for number in range(10_000):
            ledger.reserve(hospital.charge(number, mu_squared=1))
            head = ledger.head()
            if number >= 900:
                pytest.fail("the table grew")
    ledger.close()
    ledger = hospital.open()
    assert ledger.head() == head and ledger.row(hospital.charge(number).release) is None
    ledger.close()


@pytest.mark.parametrize("harm", ["delete", "flip", "empty"])
def test_a_damaged_log_after_a_kill_takes_no_acknowledged_charge_with_it(hospital, harm):
    prepared(hospital)
    acknowledged, _ = in_a_child(lambda acknowledge: live(hospital, lambda text: die_after(acknowledge, text)))
    log = hospital.path.with_name(hospital.path.name + "-wal")
    assert log.exists() and log.stat().st_size > 0, "the process was killed, not closed"
    if harm == "delete":
        log.unlink()
    elif harm == "empty":
        log.write_bytes(b"")
    else:
        raw = bytearray(log.read_bytes())
        for place in range(40, len(raw), 500):
            raw[place] ^= 1
        log.write_bytes(raw)
    check_nothing_acknowledged_is_lost(hospital, acknowledged)


def die_after(acknowledge, text, counted=[]):  # noqa: B006 - counts in the child, which dies
    acknowledge(text)
    counted.append(text)
    if len(counted) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
