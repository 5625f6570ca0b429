"""What a site's SuperNode can name at the SuperLink: what was announced to it, and its own replies."""

import asyncio

import httpx
import pytest
from flwr.proto.error_pb2 import Error
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
    PushObjectResponse,
)
from test_fleet_desk import NODE, PROTOBUF, make_key, on_ends

from fedhealth.flower.fleet_fence import MAX_PARTS, FleetFence
from fedhealth.flower.fleet_requests import (
    CONFIRM,
    PUBLIC_KEY,
    PULL,
    PULL_OBJECT,
    PUSH,
    PUSH_OBJECT,
    key_header,
)
from fedhealth.flower.frame_messages import to_content

GET_RUN = "/v1/fleet/get-run"
STORED, NOT_STORED = (PushObjectResponse(stored=each).SerializeToString() for each in (True, False))


def announced(message, *parts):
    tree = ObjectTree(object_id=message, children=[ObjectTree(object_id=part) for part in parts])
    metadata = Metadata(message_id=message, src_node_id=1, dst_node_id=NODE)
    answer = PullMessagesResponse(messages_list=[Message(metadata=metadata)], message_object_trees=[tree])
    return answer.SerializeToString()


def reply(to, name="reply", source=NODE, parts=("a", "b"), times=1):
    metadata = Metadata(
        message_id=name, reply_to_message_id=to, src_node_id=source, dst_node_id=1, message_type="query"
    )
    tree = ObjectTree(object_id=name, children=[ObjectTree(object_id=part) for part in parts])
    return PushMessagesRequest(
        messages_list=[Message(metadata=metadata, error=Error(code=1))] * times, message_object_trees=[tree] * times
    ).SerializeToString()


def part(name, content=b""):
    return PushObjectRequest(object_id=name, object_content=content).SerializeToString()


def pull(name):
    return PullObjectRequest(object_id=name).SerializeToString()


def confirm(name):
    return ConfirmMessageReceivedRequest(message_object_id=name).SerializeToString()


@pytest.fixture
def fence():
    made = FleetFence()
    made.expect(10)
    made.announce(announced("question", "record", "chunk"))
    return made


def test_only_parts_that_were_announced_to_a_site_are_fetched_and_confirmed(fence):
    assert [fence.lets(PULL_OBJECT, NODE, pull(name)) for name in ("question", "record", "chunk")] == [True] * 3
    assert not fence.lets(PULL_OBJECT, NODE, pull("another site's release"))
    assert fence.lets(CONFIRM, NODE, confirm("question"))
    assert not fence.lets(CONFIRM, NODE, confirm("chunk"))  # a part may be another site's as well
    assert not fence.lets(CONFIRM, NODE, confirm("another site's message"))


@pytest.mark.parametrize(
    "body",
    [
        reply("another site's question"),
        reply(""),  # a message of its own, to whichever node it names
        reply("question", source=NODE + 1),
        reply("question", source=1),  # as if from the SuperLink
        reply("question", times=2),
        reply("question", times=0),
        reply("question", parts=[f"{number}" for number in range(MAX_PARTS)]),
        b"\xff",
    ],
    ids=["foreign", "own-question", "foreign-source", "superlink", "two", "none", "parts", "nonsense"],
)
def test_a_site_replies_in_its_own_name_to_what_it_was_asked_and_to_nothing_else(fence, body):
    assert not fence.lets(PUSH, NODE, body)
    assert fence.end() == {"question": False}
    assert fence.lets(PUSH, NODE, reply("question"))


def test_a_reply_is_given_once_and_may_be_repeated(fence):
    for _ in range(2):
        assert fence.lets(PUSH, NODE, reply("question"))
    assert not fence.lets(PUSH, NODE, reply("question", "another"))


def wanted(*parts):
    return PushMessagesResponse(objects_to_push=parts).SerializeToString()


@pytest.mark.parametrize(
    ("heard", "whole"),
    [
        ([(PUSH, reply("question"), wanted("a", "b")), *((PUSH_OBJECT, part(name), STORED) for name in "ab")], True),
        ([(PUSH, reply("question"), wanted())], True),  # the SuperLink has these very parts from before
        ([(PUSH, reply("question"), wanted("a", "b")), (PUSH_OBJECT, part("a"), STORED)], False),
        ([(PUSH, reply("question"), wanted("a")), (PUSH_OBJECT, part("a"), NOT_STORED)], False),
        ([(PUSH, reply("question"), wanted("a")), (PUSH_OBJECT, part("a"), b"\xff")], False),
        ([], False),
    ],
    ids=["all", "nothing-new", "killed", "refused", "nonsense", "none"],
)
def test_a_reply_is_whole_once_the_superlink_has_stored_every_part_that_it_wants(fence, heard, whole):
    for path, body, answer in heard:
        assert fence.lets(path, NODE, body)
        fence.take_in(path, body, answer)
    assert fence.end() == {"question": whole}
    assert fence.end() == {}


def test_parts_of_a_reply_are_those_it_listed_and_together_of_a_bounded_length(fence):
    assert not fence.lets(PUSH_OBJECT, NODE, part("a"))  # before the reply
    fence.lets(PUSH, NODE, reply("question"))
    assert not fence.lets(PUSH_OBJECT, NODE, part("chunk"))
    for _ in range(3):  # the same part again takes no more room
        assert fence.lets(PUSH_OBJECT, NODE, part("a", bytes(6)))
    assert not fence.lets(PUSH_OBJECT, NODE, part("b", bytes(5)))
    assert fence.lets(PUSH_OBJECT, NODE, part("b", bytes(4)))


def test_a_reply_is_as_long_as_was_expected_last_also_of_a_supernode_that_begins_anew():
    fence = FleetFence()
    fence.announce(announced("question"))
    fence.lets(PUSH, NODE, reply("question"))
    assert not fence.lets(PUSH_OBJECT, NODE, part("a", b"1")), "before anything is expected"
    fence.expect(3)
    fence.begin()
    fence.announce(announced("question"))
    fence.lets(PUSH, NODE, reply("question"))
    assert not fence.lets(PUSH_OBJECT, NODE, part("a", bytes(4)))
    assert fence.lets(PUSH_OBJECT, NODE, part("a", bytes(3)))


def test_a_reply_that_is_longer_than_the_study_expects_never_reaches_the_superlink(tmp_path):
    async def work(made):
        public = make_key()[1]
        await made.join("hungary", public_key=public)
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        message = made.superlink.send(to_content(b"frame"))
        made.desk.mail("hungary", message, 100)
        await made.call("hungary", PULL, headers)
        assert (await made.call("hungary", PUSH, headers, reply(message)))[0].status == 200
        half = 2**19  # of the mebibyte for what Flower writes around a frame
        assert (await made.call("hungary", PUSH_OBJECT, headers, part("a", bytes(half + 100))))[0].status == 200
        before = list(made.superlink.asked)
        assert (await made.call("hungary", PUSH_OBJECT, headers, part("b", bytes(half + 1))))[0].status == 403
        assert made.superlink.asked == before
        assert (await made.call("hungary", PUSH_OBJECT, headers, part("b", bytes(half))))[0].status == 200

    on_ends(tmp_path, work)


def test_a_supernode_that_begins_was_told_of_nothing(fence):
    fence.lets(PUSH, NODE, reply("question"))
    fence.begin()
    assert fence.end() == {}
    assert not fence.lets(PULL_OBJECT, NODE, pull("chunk"))
    assert not fence.lets(PUSH, NODE, reply("question"))


def test_what_is_remembered_of_a_site_is_bounded(fence):
    for number in range(64):
        fence.announce(announced(f"later {number}"))
    assert not fence.lets(PULL_OBJECT, NODE, pull("chunk"))
    assert fence.lets(PULL_OBJECT, NODE, pull("later 0"))


def test_a_site_that_names_another_sites_message_is_refused_at_the_desk_and_that_site_is_answered(tmp_path):
    async def work(made):
        headers = {}
        for site in ("hungary", "cleveland"):
            public = make_key()[1]
            await made.join(site, public_key=public)
            headers[site] = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        message = made.superlink.send(to_content(b"frame"))
        made.desk.mail("hungary", message, 2**10)
        await made.call("hungary", PULL, headers["hungary"])
        before = list(made.superlink.asked)
        bodies = {PULL_OBJECT: pull(message), CONFIRM: confirm(message), PUSH: reply(message), PUSH_OBJECT: part("a")}
        said = [
            (await made.call("cleveland", path, headers["cleveland"], body))[0].status for path, body in bodies.items()
        ]
        assert said == [410, 200, 403, 403]
        assert made.superlink.asked == before, "the SuperLink was asked nothing of it"
        said = [(await made.call("hungary", path, headers["hungary"], body))[0].status for path, body in bodies.items()]
        assert said == [200, 200, 200, 200]
        made.superlink._push_object = lambda _: PushObjectResponse(stored=True)  # these parts are no real message's
        for name in ("reply", "b"):
            await made.call("hungary", PUSH_OBJECT, headers["hungary"], part(name))
        assert made.replied == [], "it may be on its way still"
        for _ in range(2):
            made.desk.mail("hungary", "more", 2**10)
            await made.call("hungary", PULL, headers["hungary"])
        assert made.replied == [message], "told once for each reply, however often it asks"

    on_ends(tmp_path, work)


def test_a_site_that_asks_a_lot_leaves_the_superlink_to_the_others(tmp_path):
    async def work(made):
        headers = {}
        for site in ("hungary", "cleveland"):
            public = make_key()[1]
            await made.join(site, public_key=public)
            headers[site] = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        under_way, answered = [], asyncio.Event()

        async def superlink(request):
            under_way.append(request.url.path)
            await answered.wait()
            return httpx.Response(200)

        await made.desk.close()
        made.desk._client = httpx.AsyncClient(transport=httpx.MockTransport(superlink), base_url="https://superlink")
        flood = [asyncio.create_task(made.call("hungary", GET_RUN, headers["hungary"])) for _ in range(16)]
        await asyncio.sleep(0.05)
        other = asyncio.create_task(made.call("cleveland", GET_RUN, headers["cleveland"], b"other"))
        await asyncio.sleep(0.05)
        assert len(under_way) == 5, "four of the one, and the other's"
        answered.set()
        assert [answer.status for answer, _ in await asyncio.gather(*flood, other)] == [200] * 17

    on_ends(tmp_path, work)
