"""Results are kept for as long as the protocol says, and then removed; that is kept."""

import pytest
from served_coordinator import SIGNED, STUDY, open_home
from study_scene import RESEARCHER, study_of

from fedhealth.coordinator.asking import Shown
from fedhealth.coordinator.participation import CompletedRound
from fedhealth.coordinator.research_client import (
    list_results,
    list_studies,
    submit_study,
)
from fedhealth.coordinator.retention import remove_expired
from fedhealth.coordinator.round_checkpoint import CHECKPOINT_FILE
from fedhealth.coordinator.run_folder import EVIDENCE, PUBLISHED, SEAL
from fedhealth.coordinator.store.database import open_database
from fedhealth.coordinator.store.runs import Runs
from fedhealth.coordinator.store.studies import Studies
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.errors import ConfigInvalid
from fedhealth.study.signature import open_signed_study, sign_study

DAY = 24 * 3600 * 1000


@pytest.mark.parametrize("days", [29, 30])
def test_results_are_removed_when_the_protocol_says_so_and_that_is_kept(tmp_path, days):
    engine = open_database(tmp_path, None, "ab" * 32)
    studies, runs = Studies(engine), Runs(engine)
    known = studies.submit(open_signed_study(SIGNED), SIGNED, 30, 1)
    folder = tmp_path / "run"
    folder.mkdir()
    runs.begin(known.digest, str(folder), ["ward-a"], 2)
    studies.move(known.digest, StudyState.RUNNING, 2)
    runs.keep_rounds(known.digest, ["ward-a"], [CompletedRound(1, 1)], "11" * 32, Shown(), None, 3)
    runs.finish(known.digest, Shown(), 1000)
    studies.move(known.digest, StudyState.DONE, 1000)
    for name in (*PUBLISHED, SEAL):
        (folder / name).write_text("x")
    removed = remove_expired(studies, runs, 1000 + days * DAY)
    if days < 30:
        assert (removed, len(list(folder.iterdir()))) == ([], len(PUBLISHED) + 1)
    else:
        assert removed == [known.digest]
        assert not folder.exists()
        assert (runs.find(known.digest), runs.rounds(known.digest)) == (None, [])
        found = studies.find(known.digest)
        assert (found.state, found.removed_at) == (StudyState.DONE, 1000 + 30 * DAY)
        assert studies.events(known.digest)[-1].body == {"event": "results-removed"}
    assert remove_expired(studies, runs, 1000 + days * DAY) == []  # once
    engine.dispose()


def test_results_that_were_removed_say_so_and_a_study_that_has_not_ended_is_kept(served):
    served.approve(SIGNED)
    submit_study(served.socket, SIGNED)
    served.wait_for(STUDY, "done")
    served.stop()
    with open_home(served) as coordinator:
        later = coordinator.unix_ms() + (STUDY.retention_days + 1) * DAY
        assert remove_expired(coordinator.studies, coordinator.runs, later) == [STUDY.digest]
    served.start()
    with pytest.raises(
        ConfigInvalid, match=rf"were removed on .*; got a protocol that keeps them {STUDY.retention_days}"
    ):
        list_results(served.socket, STUDY.digest)
    (told,) = list_studies(served.socket)
    assert (told.state, told.removed) == ("done", True)


def test_results_that_cannot_be_removed_stop_nothing_and_leftovers_of_a_kill_go_too(tmp_path):
    engine = open_database(tmp_path, None, "ab" * 32)
    studies, runs = Studies(engine), Runs(engine)
    folders = {}
    for name in ("stuck", "free"):
        signed = sign_study(study_of(name=name), RESEARCHER)
        known = studies.submit(open_signed_study(signed), signed, 30, 1)
        folders[name] = tmp_path / name
        folders[name].mkdir()
        runs.begin(known.digest, str(folders[name]), ["ward-a"], 2)
        studies.stop(known.digest, "ab" * 32, "cd" * 64, 3)
    (folders["stuck"] / EVIDENCE).mkdir()  # no file: it cannot be unlinked
    (folders["free"] / (CHECKPOINT_FILE + ".new")).write_bytes(b"weights")
    (gone,) = remove_expired(studies, runs, 3 + 40 * DAY)
    assert studies.find(gone).name == "free"
    assert not folders["free"].exists()
    (folders["stuck"] / EVIDENCE).rmdir()
    assert len(remove_expired(studies, runs, 4 + 40 * DAY)) == 1
