"""A process of the search, seen from outside: whose it is, what it may reach, and that a gate never waits for it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from unix_users import GATE, NODE, as_user, environment, interpreter, why_not
from ward import Ward

from fedhealth.errors import ConfigInvalid
from fedhealth.site.consent import forget_patient, renew_consent
from fedhealth.site.search_consent import KeptConsent, make_index_folder, read_consent

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is looked at is Linux's"),
]

ENTER = """
import json, os, sys
from pathlib import Path
from fedhealth.site.search_domain import enter_search_domain
folder, root, background = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "background"
gate = root / "gate"
domain = enter_search_domain(root, folder, background=background)
def can(act):
    try:
        act()
        return True
    except OSError:
        return False
import numpy
numpy.ones((600, 600)) @ numpy.ones((600, 600))
print(json.dumps({
    "user": os.getresuid(), "groups": sorted({*os.getgroups(), os.getgid()}), "niceness": os.getpriority(0, 0),
    "policy": os.sched_getscheduler(0), "threads": len(os.listdir("/proc/self/task")),
    "first to go": int(Path("/proc/self/oom_score_adj").read_text()),
    "networks": Path("/proc/self/net/dev").read_text().count(":"),
    "forgotten": len(domain.consent.forgotten),
    "reads the data": can(lambda: (folder / "patients.csv").read_text()),
    "writes the index": can(lambda: (domain.index / "tmp" / "x").write_text("x")),
    "reads the ledger": can(lambda: (gate / "ledger.sqlite").read_bytes()),
    "reads the naming secret": can(lambda: (gate / "naming.secret").read_bytes()),
    "writes beside the index": can(lambda: (gate / "x").write_text("x")),
    "writes the data": can(lambda: (folder / "patients.csv").write_text("")),
    "mode": oct(domain.index.stat().st_mode & 0o777), "owner": domain.index.stat().st_uid,
    "is root again": can(lambda: os.setresuid(0, 0, 0)) and os.getuid() == 0 and os.geteuid() != 0,
}))
"""


def entered(folder, state, kind="background", command=(sys.executable,), **options):
    words = [*command, "-c", ENTER, str(folder), str(state.root), kind]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kind", "policy"), [("background", os.SCHED_IDLE), ("search", os.SCHED_BATCH)])
def test_it_is_last_in_every_queue_and_has_the_index_and_the_data_and_nothing_else(ward, kind, policy):
    here = ward()
    here.state.node.mkdir()
    forget_patient(here.folder, here.state, "p1")
    found = entered(here.folder, here.state, kind)
    assert (found["policy"], found["niceness"], found["first to go"]) == (policy, 19, 800)
    assert found["threads"] == 1
    assert found["networks"] == 1  # the loopback of a network of its own
    assert found["forgotten"] == 1
    assert {name for name in found if found[name] is True} == {"reads the data", "writes the index"}


def test_at_a_site_that_never_joined_nobody_times_a_reply_and_it_runs_as_any_other(ward):
    here = ward()
    found = entered(here.folder, here.state)
    assert (found["policy"], found["niceness"]) == (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))


@pytest.fixture
def open_folder():
    folder = Path(tempfile.mkdtemp(prefix="fh-"))  # open to other users, which pytest's own is not
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it runs")
def test_root_becomes_the_gates_user_and_nobody_else_may(open_folder, make_csv):
    here = Ward(open_folder, make_csv())
    for path in (here.state.gate, *here.state.gate.rglob("*")):
        os.chown(path, GATE, GATE)
    for path in (here.folder, *here.folder.rglob("*")):
        path.chmod(0o755)
    root = ("setpriv", "--groups=0,4", interpreter())  # of groups that the gate's user is not in
    found = entered(here.folder, here.state, command=root, cwd="/", env=environment())
    assert (found["user"], found["owner"], found["mode"]) == ([GATE] * 3, GATE, "0o700")
    assert (found["groups"], found["is root again"]) == ([GATE], False)
    assert found["writes the index"] is True
    here.state.root.chmod(0o750)
    words = as_user(NODE, "-m", "fedhealth.cli.main", "search", "fever", "--state", str(here.state.root))
    refused = subprocess.run(words, cwd="/", env=environment(), capture_output=True, text=True, timeout=60)
    assert (refused.returncode, "this user may not" in refused.stderr) == (ConfigInvalid.exit_code, True)


def test_without_an_index_a_search_says_how_to_make_one(ward):
    here, program = ward(), "import sys; from pathlib import Path; from fedhealth.cli.main import main; main()"
    words = [sys.executable, "-c", program, "site", "index", "status", "--state", str(here.state.root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == ConfigInvalid.exit_code
    assert "fedhealth site index add" in done.stderr


def test_the_journal_decides_who_is_excluded_and_the_newer_word_counts(ward):
    here = ward()
    make_index_folder(here.state)
    before = read_consent(here.state, here.folder)
    assert (before.excludes("p1"), before.excludes(None), before.as_of) == (False, False, 0)
    forget_patient(here.folder, here.state, "p1")
    after = read_consent(here.state, here.folder)
    assert [after.excludes(patient) for patient in ("p1", " p1 ", "p2", None)] == [True, True, False, False]
    assert before.updated(after.kept(removed=False)).excludes("p1")  # what another process wrote meanwhile
    assert after.updated(before.kept(removed=True)).excludes("p1")  # never the older word
    renew_consent(here.folder, here.state, "p1")
    again = read_consent(here.state, here.folder)
    assert not again.excludes("p1")
    assert not after.updated(again.kept(removed=True)).excludes("p1")


def test_what_the_index_keeps_of_it_holds_no_name(ward):
    here = ward()
    forget_patient(here.folder, here.state, "p1-of-the-ward")
    kept: KeptConsent = read_consent(here.state, here.folder).kept(removed=True)
    assert "p1-of-the-ward" not in kept.model_dump_json()
    assert len(kept.forgotten) == 1
