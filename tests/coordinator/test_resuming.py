"""Killed at any point, around each write and each frame, a study ends with the same bits and charges nothing twice."""

import tempfile
from pathlib import Path

import pytest
from postgres_server import running_postgres
from study_scene import Points, Scene, study_of

from fedhealth.coordinator.round_checkpoint import CHECKPOINT_FILE
from fedhealth.coordinator.run_folder import EVIDENCE, MODEL, PUBLISHED, SEAL, SIGNED_STUDY
from fedhealth.coordinator.store.database import StoreUnavailable
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.errors import ConfigInvalid, FederationFailed

STUDY = study_of()


@pytest.fixture(scope="module")
def memory():
    """A folder in memory where there is one: a kill leaves what was written to the system, whatever the disk has."""
    shm = Path("/dev/shm")  # noqa: S108 - the folder in it is of our own
    with tempfile.TemporaryDirectory(prefix="fh-", dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def calm(memory):
    """The names of all points of an undisturbed run, its model and its evidence."""
    scene, points = Scene(memory / "calm", STUDY), Points()
    evidence = scene.run(points)
    model = (scene.results / MODEL).read_bytes()
    scene.close()
    return points.names, model, evidence


def what_follows(evidence):
    """Return all of an evidence that may not depend on when it was made."""
    return evidence.model_dump(exclude={"started": True, "finished": True, "sites": {"__all__": {"ledger"}}})


def test_an_undisturbed_run_publishes_and_leaves_no_checkpoint(calm, memory):
    names, _, evidence = calm
    assert {path.name for path in (memory / "calm" / "results").iterdir()} == {*PUBLISHED, SEAL}
    assert not evidence.partial
    assert [span.model_dump() for span in evidence.participation.rounds] == [{"first": 1, "last": 2, "absent": {}}]
    for name in ("replace_file", "exchange", "keep_rounds", "keep_counts", "finish", "countersigning", "seal_run"):
        assert {moment for _, moment in names if moment.endswith(name)} == {f"before {name}", f"after {name}"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(8))
def test_killed_at_any_point_the_study_ends_with_the_same_bits_and_charges_nothing_twice(calm, memory, part):
    names, model, wanted = calm
    for number in range(1 + part, len(names) + 1, 8):
        scene, points = Scene(memory / f"killed-{number}", STUDY), Points(number)
        evidence = scene.run(points)
        process, moment = points.names[number - 1]  # in another order than before, as the processes run side by side
        assert (evidence is None) == (process == "main"), "a ServerApp is started again by the main process"
        if evidence is None:
            evidence = scene.run()
        assert (scene.results / MODEL).read_bytes() == model, moment
        assert what_follows(evidence) == what_follows(wanted)
        for site in scene.sites.values():
            assert site.charges(STUDY) == [2, 1], moment
        assert scene.hub.studies.find(STUDY.digest).state is StudyState.DONE
        assert not (scene.results / CHECKPOINT_FILE).exists()
        assert (scene.results / SIGNED_STUDY).read_bytes() == scene.signed
        assert scene.hub.runs.unacknowledged(STUDY.digest) == {}
        for site in scene.sites.values():
            sent = {site.ledger.row(release).state for release in site.ledger.account.reserved}
            assert sent == {"sent"}, f"a site keeps a payload for ever: {moment}"
        scene.close()


def test_with_postgresql_too_a_killed_study_ends_with_the_same_bits(calm, memory):
    names, model, wanted = calm
    writes = [place for place, (_, name) in enumerate(names, 1) if name in ("before keep_rounds", "after keep_counts")]
    scene = Scene(memory / "postgresql", STUDY)
    with running_postgres() as scene.database:
        for place in writes:  # the same study, killed again and again
            scene.run(Points(place))
        evidence = scene.run()
        assert scene.hub.studies.find(STUDY.digest).state is StudyState.DONE
        assert scene.hub.engine.dialect.name == "postgresql"
        scene.hub.engine.dispose()
    assert (scene.results / MODEL).read_bytes() == model
    assert what_follows(evidence) == what_follows(wanted)
    assert all(site.charges(STUDY) == [2, 1] for site in scene.sites.values())
    scene.close()


def test_a_finished_study_that_is_run_again_changes_nothing(memory):
    scene = Scene(memory / "again", STUDY)
    first = scene.run()
    before = (scene.results / EVIDENCE).read_bytes()
    entries = [site.ledger.size for site in scene.sites.values()]
    assert scene.run() == first
    assert (scene.results / EVIDENCE).read_bytes() == before
    assert [site.ledger.size for site in scene.sites.values()] == entries
    scene.close()


def test_a_coordinator_that_lost_its_checkpoint_goes_on_under_spare_numbers(memory):
    # Killed once both sites were told to drop round 1; then the checkpoint is lost. Number 1 is sent and dropped, so
    # round 1 is asked for as number 2, which was charged before, for another model.
    scene = Scene(memory / "lost", STUDY)

    def first_round_is_dropped(process, name):
        ledgers = [site.ledger for site in scene.sites.values()]
        return name.startswith("after a frame") and all(
            "sent" in {ledger.row(release).state for release in ledger.account.reserved} for ledger in ledgers
        )

    assert scene.run(Points(kill_when=first_round_is_dropped)) is None
    assert scene.hub.runs.rounds(STUDY.digest)
    (scene.results / CHECKPOINT_FILE).unlink()
    evidence = scene.run()
    (span,) = evidence.participation.rounds
    assert (span.first, span.last, evidence.rounds_completed) == (2, 3, 2)
    for name, site in scene.sites.items():
        found = next(each for each in evidence.sites if each.site == name)
        # Number 1, number 2 twice, number 3: all of the envelope of 2 rounds and 2 spare ones. A coordinator that lost
        # its state cannot know that, and publishes the envelope.
        assert site.charges(STUDY)[0] == 4
        assert (found.rounds, found.unconfirmed) == ((2, 3), 2)
        assert next(line.releases for line in found.spent if line.purpose == "training") == 4
    scene.close()


def test_a_run_keeps_to_its_folder(memory):
    scene = Scene(memory / "folder", STUDY)
    scene.run()
    scene.results = scene.folder / "elsewhere"
    with pytest.raises(ConfigInvalid, match=r"was run before; got --out .*elsewhere; wanted its folder .*results"):
        scene.run()
    scene.close()


def test_a_study_that_was_stopped_is_not_run(memory):
    scene = Scene(memory / "stopped", STUDY)
    scene.run(Points(30))
    hub = scene.new_hub(Points())
    hub.studies.stop(STUDY.digest, "ab" * 32, "cd" * 64, 1)
    with pytest.raises(ConfigInvalid, match="was stopped by its researcher"):
        scene.run()
    assert not (scene.results / EVIDENCE).exists()
    scene.close()


def test_a_server_app_that_ends_again_and_again_is_given_up_and_can_be_gone_on_with(memory, monkeypatch):
    scene, ended = Scene(memory / "hopeless", STUDY), []

    async def end_at_once(output, answer, points):
        ended.append(output)
        return 1

    with monkeypatch.context() as patched:
        patched.setattr("study_scene.server_app_in_thread", end_at_once)
        with pytest.raises(FederationFailed, match="ServerApp ended early; got exit status 1, 6 times"):
            scene.run()
    assert len(ended) == 6
    assert scene.hub.studies.find(STUDY.digest).state is StudyState.WAITING
    assert scene.run() is not None
    scene.close()


def test_a_round_that_cannot_be_written_down_stops_the_study_where_it_can_be_gone_on_with(memory, monkeypatch):
    scene = Scene(memory / "full", STUDY)

    def full(*_, **__):
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("fedhealth.coordinator.store.runs.Runs.keep_rounds", full)
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            scene.run()
    assert scene.hub.studies.find(STUDY.digest).state is StudyState.WAITING
    evidence = scene.run()
    assert [site.rounds for site in evidence.sites] == [(1, 2), (1, 2)]
    assert all(site.charges(STUDY) == [2, 1] for site in scene.sites.values())
    scene.close()
