"""Frames over a SuperLink's Grid: what comes back, what is lost, and a ServerApp that is started again."""

import asyncio
import contextlib
import socket
import threading

import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from live_border import until

from fedhealth.coordinator import superlink_app, superlink_run
from fedhealth.coordinator.carried_frames import SOCKET
from fedhealth.coordinator.superlink_run import SuperLinkRun
from fedhealth.errors import FederationFailed
from fedhealth.flower.fab import FAB_SHA256
from fedhealth.flower.frame_messages import frame_of, to_content
from fedhealth.flower.link_grid import set_task_identity
from fedhealth.link.services import PeerAway

LARGE = 3 * 2**20


class Ran:
    """What a Grid's `run` says."""

    def __init__(self, fab_hash=FAB_SHA256):
        self.fab_hash = fab_hash


class PretendGrid:
    """A Grid at whose nodes `answers` says what comes back: a content, an error, or None for nothing."""

    def __init__(self, answers):
        self.run, self._answers, self._sent = Ran(), answers, {}

    def push_messages(self, messages):
        names = []
        for message in messages:
            names.append(f"m{len(self._sent)}")
            message.metadata.__dict__["_message_id"] = names[-1]
            self._sent[names[-1]] = message
        return names

    def pull_messages(self, names):
        replies = []
        for name in names:
            message = self._sent[name]
            answer = self._answers(message.metadata.dst_node_id, frame_of(message.content, 2**30))
            if answer is not None:
                replies.append(Message(answer, reply_to=message))
        return replies


class PretendControl:
    """The Control API of a SuperLink whose apps are threads of the test."""

    def __init__(self, path, answers):
        self._path, self._answers = path, answers
        self.started, self.stopped, self.failures, self.connections = [], [], [], []

    def start_run(self, bundle):
        if self.failures:
            raise self.failures.pop()
        self.started.append(bundle)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._path))
        self.connections.append(connection)

        def app():
            with contextlib.suppress(OSError):
                superlink_app.FrameCarrier(PretendGrid(self._answers), connection).run()
            connection.close()

        threading.Thread(target=app, daemon=True).start()
        return len(self.started)

    def stop_run(self, run):
        self.stopped.append(run)

    def close(self):
        pass


@contextlib.asynccontextmanager
async def carrying(folder, answers, on_sent=lambda _site, _longest: None, slow=()):
    set_task_identity(run_id=1)
    control = PretendControl(folder / "s", answers)

    def sent(site, message, longest):
        on_sent(site, longest)
        if site not in slow:
            run.look(message)  # the nodes of this Grid answer at once

    run = SuperLinkRun(folder / "s", lambda: control, sent)
    await run.start()
    run.begin()
    try:
        yield run, control
    finally:
        await run.stop()


def reversed_frame(_node, frame):
    return to_content(bytes(frame[::-1]))


async def ask(run, site="a", node=7, frame=b"question", seconds=20.0, longest=LARGE):
    return bytes(await run.carry(site, node, frame, seconds, longest))


def test_a_frame_goes_to_its_node_and_the_reply_comes_back_to_the_byte(short_path):
    big, sent = bytes(range(256)) * (LARGE // 256), []

    async def scene():
        def answers(node, frame):
            return to_content(str(node).encode() + frame)

        async with carrying(short_path, answers, lambda *told: sent.append(told)) as (run, control):
            both = await asyncio.gather(ask(run, "a", 2**64 - 1), ask(run, "b", 5, big, longest=LARGE + 1))
            assert both == [b"18446744073709551615question", b"5" + big]
            assert len(control.started) == 1
        assert control.stopped == [1]

    asyncio.run(scene())
    assert sorted(sent) == [("a", LARGE), ("b", LARGE + 1)]


def test_a_message_that_nobody_waits_for_any_more_is_told_of_because_the_superlink_hands_it_out(
    short_path, monkeypatch
):
    may_push, push, sent = threading.Event(), PretendGrid.push_messages, []

    def slow_push(grid, messages):
        may_push.wait(10)
        return push(grid, messages)

    monkeypatch.setattr(PretendGrid, "push_messages", slow_push)

    async def scene():
        async with carrying(short_path, reversed_frame, lambda *told: sent.append(told)) as (run, _):
            asking = asyncio.create_task(ask(run))
            while not asking.done():
                run.lose("a", "a SuperNode that began anew")
                await asyncio.sleep(0.01)
            assert isinstance(asking.exception(), PeerAway)
            assert sent == []
            may_push.set()
            await until(lambda: sent == [("a", LARGE)])
            assert await ask(run) == b"noitseuq"
            assert sent == [("a", LARGE)] * 2

    asyncio.run(scene())


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Error(code=1, reason="away"), id="an error of Flower's"),
        pytest.param(RecordDict({"frame": ArrayRecord({"other": Array("uint8", (1,), "x", b"x")})}), id="no frame"),
        pytest.param(to_content(bytes(11)), id="a frame that is too long"),
        pytest.param(None, id="nothing, though its node has done with it"),
    ],
)
def test_what_is_not_a_frame_that_was_asked_for_is_no_answer_and_others_go_on(short_path, answer):
    async def scene():
        def answers(node, frame):
            return answer if node == 1 else reversed_frame(node, frame)

        async with carrying(short_path, answers) as (run, _):
            bad, good = await asyncio.gather(
                ask(run, "bad", 1, longest=10), ask(run, "good", 2, longest=10), return_exceptions=True
            )
            assert isinstance(bad, PeerAway)
            assert "site 'bad'" in str(bad)
            assert good == b"noitseuq"

    asyncio.run(scene())


def test_when_the_app_ends_what_is_under_way_fails_at_once_and_another_run_takes_its_place(short_path):
    async def scene():
        slow, sent = ["a"], []
        async with carrying(short_path, reversed_frame, lambda *told: sent.append(told), slow) as (run, control):
            asked = asyncio.create_task(ask(run, seconds=60.0))
            await until(lambda: sent)
            control.connections[0].shutdown(socket.SHUT_RDWR)
            with pytest.raises(PeerAway, match="a ServerApp that ended"):
                await asked
            slow.clear()
            assert await ask(run) == b"noitseuq"
            assert len(control.started) == 2
            assert control.stopped == [1], "the former run is not left on the SuperLink"

    asyncio.run(scene())


def test_a_superlink_that_is_away_when_a_run_shall_begin_is_asked_again(short_path):
    async def scene():
        async with carrying(short_path, reversed_frame) as (run, control):
            control.failures = [FederationFailed("the SuperLink does not answer")] * 2
            assert await ask(run) == b"noitseuq"
            assert control.failures == []

    asyncio.run(scene())


def test_a_site_that_began_anew_is_given_up_and_no_other(short_path):
    async def scene():
        async with carrying(short_path, reversed_frame, slow=("a", "b")) as (run, _):
            a, b = (asyncio.create_task(ask(run, site, node, seconds=3.0)) for site, node in (("a", 1), ("b", 2)))
            assert await ask(run, "c", 3) == b"noitseuq"
            run.lose("a", "a SuperNode that began anew")
            with pytest.raises(PeerAway, match="site 'a' cannot be asked; got a SuperNode that began anew"):
                await a
            with pytest.raises(PeerAway, match="no answer over the SuperLink within 3 s"):
                await b

    asyncio.run(scene())


def test_a_message_that_was_lost_is_given_up_at_once_and_no_other(short_path):
    async def scene():
        async with carrying(short_path, reversed_frame, slow=("a", "b")) as (run, _):
            lost, other = (asyncio.create_task(ask(run, site, seconds=2.0)) for site in ("a", "b"))
            while not lost.done():
                run.drop("m0")  # the first that this Grid was given
                await asyncio.sleep(0.01)
            with pytest.raises(PeerAway, match="site 'a' cannot be asked; got a message that was lost"):
                await lost
            with pytest.raises(PeerAway, match="no answer over the SuperLink within 2 s"):
                await other

    asyncio.run(scene())


def test_a_reply_that_is_half_there_is_not_waited_for(short_path):
    """Who asks Flower's Grid for it waits for minutes: its SuperNode was killed over sending it."""
    asked_for = []

    async def scene():
        def answers(node, frame):
            asked_for.append(node)
            return reversed_frame(node, frame)

        sent = []
        async with carrying(short_path, answers, lambda *told: sent.append(told), slow=("killed",)) as (run, _):
            half = asyncio.create_task(ask(run, "killed", 1))
            await until(lambda: sent)
            assert await ask(run, "other", 2) == b"noitseuq"
            run.lose("killed", "a SuperNode that began anew")
            with pytest.raises(PeerAway, match="a SuperNode that began anew"):
                await half
            assert await ask(run, "other", 2) == b"noitseuq"

    asyncio.run(scene())
    assert asked_for == [2, 2]


def test_an_app_that_says_nothing_is_given_up_and_every_site_is_asked_again_over_another(short_path, monkeypatch):
    monkeypatch.setattr(superlink_run, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(superlink_run, "_WATCH_SECONDS", 0.05)
    hanging, over = [1], threading.Event()

    async def scene():
        def answers(node, frame):
            if hanging:
                hanging.pop()
                over.wait(30)
            return reversed_frame(node, frame)

        try:
            async with carrying(short_path, answers) as (run, control):
                both = await asyncio.gather(ask(run, "a"), ask(run, "b"), return_exceptions=True)
                assert ["a ServerApp that ended" in str(error) for error in both] == [True, True]
                assert await asyncio.gather(ask(run, "a"), ask(run, "b")) == [b"noitseuq"] * 2
                assert control.stopped == [1], "a hung app is ended by the SuperLink"
        finally:
            over.set()

    asyncio.run(scene())


def test_a_silent_app_that_owes_nothing_is_left_alone(short_path, monkeypatch):
    monkeypatch.setattr(superlink_run, "_SILENT_SECONDS", 0.05)
    monkeypatch.setattr(superlink_run, "_WATCH_SECONDS", 0.02)

    async def scene():
        sent = []
        async with carrying(short_path, reversed_frame, lambda *told: sent.append(told), slow=("a",)) as (run, control):
            with pytest.raises(PeerAway, match="no answer over the SuperLink within"):
                await ask(run, seconds=0.5)  # the site takes long, not the app
            assert sent and len(control.started) == 1

    asyncio.run(scene())


def test_a_frame_that_nobody_carries_is_given_up_in_time(short_path):
    async def scene():
        async with carrying(short_path, reversed_frame) as (run, _):
            await run.end()
            with pytest.raises(PeerAway, match=r"no answer over the SuperLink within 0\.2 s"):
                await ask(run, seconds=0.2)
            run.begin()
            assert await ask(run) == b"noitseuq"

    asyncio.run(scene())


def test_the_server_app_of_another_bundle_refuses(monkeypatch):
    monkeypatch.setenv(SOCKET, "/nowhere")
    grid = PretendGrid(reversed_frame)
    grid.run = Ran("ab" * 32)
    with pytest.raises(FederationFailed, match="another bundle than this release's"):
        superlink_app.main(grid, None)
