"""kill -9, in a real process, at every point of a release: around each statement, flush, computation and reply."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from fedhealth.errors import RefusalCode
from fedhealth.link.frames import ReleaseReply
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger


def live(site, compute, reached, told):
    """Serve one release in this process, from the question to the coordinator's receipt for it.

    `reached` is called at every point where a process may die; `told` with what had left it by then.
    """
    settle = Ledger._settle

    def traced_settle(ledger):
        reached("before a flush")
        settle(ledger)
        reached("after a flush")

    def traced_compute(*arguments):
        reached("before computing")
        released = compute(*arguments)
        reached("after computing")
        return released

    Ledger._settle = traced_settle
    try:
        site.reopen(traced_compute)
        site.ledger._database.exec_trace = lambda *_: reached("before a statement") or True
        reply, body, _ = site.ask()
        assert isinstance(reply, ReleaseReply)
        reached("before the reply is sent")
        told(b"released" + body)
        reached("after the reply was sent")
        site.acknowledge(reply.release)
        reached("after the coordinator's checkpoint")
    finally:
        Ledger._settle = settle
    return body


def killed_at(number, site, compute):
    """Run `live` in a process that kills itself at a point; return what had left it and whether it came that far."""
    site.close()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        points = 0

        def reached(_):
            nonlocal points
            points += 1
            if points == number:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            live(site, compute, reached, lambda text: os.write(writer, text))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as left:
        text = left.read()
    status = os.waitpid(child, 0)[1]
    return text, os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.fixture
def memory():
    """A folder in memory where there is one: a kill leaves what was written to the system, whatever the disk has."""
    place = "/dev/shm"  # noqa: S108 - the folder in it is of our own
    with tempfile.TemporaryDirectory(prefix="fh-", dir=place if os.access(place, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.processes
def test_killed_at_any_point_a_release_is_charged_once_and_has_the_same_bytes(memory, make_hospital, steps):
    points, calm = [], make_hospital(memory / "calm")
    body = live(calm, steps["counting"], points.append, lambda text: None)
    calm.close()
    assert len(points) > 30
    for each in ("a statement", "a flush", "computing", "the reply is sent"):
        assert f"before {each}" in points
    states = set()
    for number in range(1, len(points) + 1):
        site = make_hospital(memory / f"killed-{number}")
        left, was_killed = killed_at(number, site, steps["counting"])
        assert was_killed, points[number - 1]
        assert left in (b"", b"released" + body)
        site.reopen(steps["counting"], confirm=False)
        assert not left or site.charges() == 1, "what left was charged"
        charged = list(site.ledger.account.reserved)
        state = site.ledger.row(charged[0]).state if charged else "not charged"
        states.add(state)
        reply, again, _ = site.ask()
        if state == "sent":
            assert (reply.kind, reply.code) == ("refused", RefusalCode.BAD_REQUEST)
        else:
            assert isinstance(reply, ReleaseReply)
            assert again == body
        assert (site.charges(), site.entries) == (1, 4)
        site.close()
        assert verify_ledger(site.path).releases == 1
    assert states == {"not charged", "reserved", "witnessed", "stored", "sent"}
