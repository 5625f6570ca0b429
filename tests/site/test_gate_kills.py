"""A gate that is killed while it computes: once more by itself with the same bytes, then only after its administrator.

Otherwise weights that take all the memory for one patient only would tell again and again whether the patient is there.
"""

import os
import signal

import apsw
import pytest

from fedhealth.errors import RefusalCode
from fedhealth.link.frames import NeedWitness, ReleaseReply
from fedhealth.privacy.release_rows import ReleaseRows
from fedhealth.privacy.verify import verify_ledger


def killed(site, number=1):
    """Ask, in a real process of its own, for a round that kills it while it computes."""
    site.close()
    child = os.fork()
    if child == 0:
        try:
            site.reopen(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            site.ask(number=number)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it was not even begun"


def attempts(site):
    return site.ledger._database.execute("SELECT attempts FROM release ORDER BY position").fetchall()


def test_after_one_kill_the_same_bytes_come_under_the_same_charge(hospital, steps):
    calm, site = hospital("calm", compute=steps["counting"]), hospital("killed")
    wanted = calm.ask()
    killed(site)
    site.reopen(steps["counting"])
    assert site.ask() == wanted
    assert (site.charges(), site.entries) == (calm.charges(), calm.entries) == (1, 4)
    site.close()
    assert verify_ledger(site.path).releases == 1


def test_after_two_kills_the_study_is_stopped_at_the_public_time_until_it_is_resumed(hospital, steps):
    calm, site = hospital("calm", compute=steps["counting"]), hospital("killed")
    wanted = calm.ask()
    killed(site)
    killed(site)
    computed = []
    site.reopen(lambda *_: computed.append(1))
    reply, body, wait = site.ask()
    assert (reply.kind, reply.code, body) == ("refused", RefusalCode.BUSY, b"")
    assert wait == pytest.approx(0.020, abs=1e-9), "no sooner and no later than a release"
    for number in (1, 2):
        assert site.ask(number=number)[0].code == RefusalCode.BUSY
    assert [note.kind for note in site.ledger.journal()] == ["data", "failure"]
    assert (computed, site.charges(), site.entries) == ([], 1, 3)
    site.reopen(steps["counting"])
    assert site.ask()[0].code == RefusalCode.BUSY, "a restart is no resumption"
    site.resume()
    site.reopen(steps["counting"])
    assert site.ask() == wanted
    assert site.charges() == 1


def test_a_resumed_study_may_be_killed_twice_again_and_not_more(hospital, steps):
    site = hospital()
    for _ in range(2):
        killed(site)
        killed(site)
        site.reopen()
        assert site.ask()[0].code == RefusalCode.BUSY
        site.resume()
    site.reopen(steps["counting"])
    assert isinstance(site.ask()[0], ReleaseReply)


def test_a_kill_in_one_round_does_not_count_for_another(hospital, steps):
    site = hospital()
    killed(site, number=1)
    site.reopen(steps["counting"])
    assert isinstance(site.ask(number=2)[0], ReleaseReply)
    killed(site, number=3)
    site.reopen(steps["counting"])
    for number in (1, 3):
        assert isinstance(site.ask(number=number)[0], ReleaseReply)
    assert attempts(site) == [(2,), (1,), (2,)]


def test_a_release_that_waited_while_others_were_witnessed_was_not_begun(hospital, steps):
    site = hospital()
    assert isinstance(site.send(site.question())[0], NeedWitness)
    site.acknowledge()  # a receipt for no study covers the charge, too
    assert attempts(site) == [(0,)]
    killed(site)
    site.reopen(steps["counting"])
    assert isinstance(site.ask()[0], ReleaseReply)
    assert attempts(site) == [(2,)]


def test_the_ordinary_path_pays_no_commit_for_it(hospital):
    site, commits = hospital(), []
    site.ledger._database.set_commit_hook(lambda: bool(commits.append(1)))
    assert isinstance(site.ask()[0], ReleaseReply)
    assert len(commits) == 3, "the charge, the receipt and the payload"


def test_a_count_that_cannot_be_written_computes_nothing(hospital, monkeypatch):
    computed = []
    site = hospital()
    killed(site)
    site.reopen(lambda *_: computed.append(1))

    def full(self, release):
        raise apsw.FullError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ReleaseRows, "count_attempt", full)
        assert site.ask()[0].code == RefusalCode.BUSY
    assert computed == []
