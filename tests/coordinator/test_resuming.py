"""Killed at any point, around each write and each frame, a study ends with the same bits and charges nothing twice."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from postgres_server import running_postgres
from study_scene import CLOCK, Points, Scene, study_of

from fedhealth.coordinator.round_checkpoint import CHECKPOINT_FILE
from fedhealth.coordinator.run_folder import EVIDENCE, MODEL, PUBLISHED, SEAL, SIGNED_STUDY
from fedhealth.coordinator.store.database import StoreUnavailable
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.coordinator.study_run import QuorumMissing
from fedhealth.errors import ConfigInvalid, FederationFailed
from fedhealth.link.frames import Answer, unpack_request
from fedhealth.privacy.entries import Withdrawn

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


@pytest.mark.parametrize(
    "moment",
    ["after answered", "after a frame to ward-b", "after keep_rounds"],
    ids=["asked", "asking", "in its rounds"],
)
def test_a_coordinator_that_is_no_longer_for_tests_goes_on_with_no_test_site(memory, moment):
    scene = Scene(memory / f"no longer {moment}", STUDY)
    assert scene.run(Points(kill_when=lambda process, name: name == moment)) is None
    before = [site.charges(STUDY) for site in scene.sites.values()]
    scene.for_tests = False
    with pytest.raises(FederationFailed, match="test site with known noise"):
        scene.run()
    assert [site.charges(STUDY) for site in scene.sites.values()] == before
    scene.for_tests = True
    assert scene.run().unsafe_test_sites == ("ward-a", "ward-b")
    scene.close()


def test_approvals_given_for_tests_count_no_more_once_the_coordinator_is_not_for_tests(memory):
    scene = Scene(memory / "approved for tests", STUDY)

    def before_the_first_round(process, name):
        return name == "before begin"

    assert scene.run(Points(kill_when=before_the_first_round)) is None
    assert set(scene.hub.studies.approvals(STUDY.digest)) == {"ward-a", "ward-b"}
    scene.for_tests = False
    with pytest.raises(FederationFailed, match="test site with known noise"):
        scene.run()
    assert [site.charges(STUDY) for site in scene.sites.values()] == [[0, 0], [0, 0]]
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
    assert scene.run(Points(kill_when=lambda process, name: name == "after keep_rounds")) is None
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


def leave_for_ever(site):
    site.delay, site.connected = None, False


def test_a_site_that_never_came_back_after_the_first_kill_stays_in_the_evidence(memory):
    # Killed when round 1 is in the checkpoint and before any row of it is written: the first head that the site showed
    # is all that there is of it. Rows are written beside the next round, which the site may have charged by then.
    study = study_of(sites={"quorum": 1})
    scene = Scene(memory / "gone", study)
    assert scene.run(Points(kill_when=lambda _, name: name == "before keep_rounds")) is None
    assert scene.sites["ward-b"].charges(study) in ([1, 0], [2, 0])
    leave_for_ever(scene.sites["ward-b"])
    evidence = scene.run(patience=0.2)
    found = next(each for each in evidence.sites if each.site == "ward-b")
    assert (found.rounds, found.unconfirmed) == ((1,), 1)
    assert [(line.purpose, line.releases) for line in found.spent] == [("training", 2), ("evaluation", 1)]
    scene.close()


@pytest.mark.parametrize("step", ["train", "evaluate"])
def test_what_a_site_charged_before_it_withdrew_is_in_the_evidence(memory, step):
    # Ward-a has answered and ward-b is away, so the study waits; then ward-a withdraws and ward-b is back. The round
    # counts without ward-a, which has charged it.
    study = study_of(sites={"quorum": 1, "required": ["ward-b"]})
    scene = Scene(memory / f"withdrawn-{step}", study)
    leaving, away = scene.sites["ward-a"], scene.sites["ward-b"]

    async def cut(frame):
        request, _ = unpack_request(frame)
        away.connected = not (isinstance(request, Answer) and request.step == step)

    away.delay = cut
    with pytest.raises(QuorumMissing):
        scene.run(patience=0.5)
    charged = leaving.charges(study)
    assert charged == ([1, 0] if step == "train" else [2, 1])
    leaving.ledger.append(Withdrawn(study=study.digest, by="anna", at=1))
    away.delay, away.connected = None, True
    evidence = scene.run(patience=5)
    assert evidence.partial
    spent = next(each.spent for each in evidence.sites if each.site == "ward-a")
    releases = {line.purpose: line.releases for line in spent}
    assert releases.get("training", 0) >= charged[0]
    assert releases.get("evaluation", 0) >= charged[1]
    scene.close()


def test_a_checkpoint_that_went_back_is_never_forgotten(memory, monkeypatch):
    # The rows say one round; the checkpoint of it is lost before any site was told to drop its payload, so that no site
    # objects. With another site missing it would be another model, asked for and charged under the same numbers: the
    # whole envelope is published, 2 rounds and 2 spare ones.
    scene = Scene(memory / "older", STUDY)
    with monkeypatch.context() as patched:
        patched.setattr("fedhealth.coordinator.asking.Asker.checkpointed", lambda _: None)
        assert scene.run(Points(kill_when=lambda _, name: name == "after keep_rounds")) is None
    (scene.results / CHECKPOINT_FILE).unlink()
    assert scene.run(Points(kill_when=lambda _, name: name == "after rewind")) is None
    evidence = scene.run()
    assert [len(site.rounds) + site.unconfirmed for site in evidence.sites] == [4, 4]
    scene.close()


@pytest.mark.parametrize("place", [-1, -60, 300])
def test_a_checkpoint_with_one_flipped_bit_is_not_gone_on_from(memory, place):
    scene = Scene(memory / f"flipped-{place}", STUDY)
    assert scene.run(Points(kill_when=lambda _, name: name == "before keep_rounds")) is None
    path = scene.results / CHECKPOINT_FILE
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    before = [site.charges(STUDY) for site in scene.sites.values()]
    with pytest.raises(FederationFailed, match="is damaged"):
        scene.run()
    assert [site.charges(STUDY) for site in scene.sites.values()] == before
    scene.close()


def test_a_study_is_not_written_over_the_results_of_another(memory):
    scene = Scene(memory / "first", STUDY)
    scene.run()
    before = (scene.results / EVIDENCE).read_bytes()
    other = Scene(memory / "second", study_of(name="other"))
    other.results = scene.results
    with pytest.raises(ConfigInvalid, match="written over the results of another run"):
        other.run()
    assert (scene.results / EVIDENCE).read_bytes() == before
    scene.close()
    other.close()


def test_a_clock_that_was_set_back_makes_no_run_that_ends_before_it_began(memory, monkeypatch):
    scene = Scene(memory / "clock", STUDY)
    ahead = CLOCK.unix_ms() + 3600 * 1000
    monkeypatch.setattr("study_scene.Hub.unix_ms", lambda _: ahead)
    evidence = scene.run()
    assert evidence.started <= evidence.finished
    scene.close()


def test_a_run_that_begins_while_a_site_shows_its_head_for_another_study_disturbs_nothing(memory):
    scene = Scene(memory / "beside", STUDY)
    hub = scene.new_hub(Points())

    async def begin(frame):
        if unpack_request(frame)[0].kind == "witnessed":
            hub.asker.resume({})

    scene.sites["ward-a"].delay = begin
    assert asyncio.run(hub.asker.head("ward-a")).entries
    hub.engine.dispose()
    scene.close()
