"""The node's socket for queries: what passes it, and that nothing else does."""

import asyncio
import json
import os
import socket
import stat
import struct

import pytest
from counted_ward import ASKER, query, search_study, signed_query

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import LinkUnavailable
from fedhealth.link.counts import CountAnswer, pack_answer
from fedhealth.signing import sign
from fedhealth.site.count_port import CountPort, ask_elsewhere

STUDY = search_study()
ASKED = signed_query(STUDY, query("icd10:G20"))
ANSWER = CountAnswer(counts={"ward-a": 31}, absent={"ward-b": "away"})


def served(path, work, answer=None, unheard=None):
    """Serve a port while `work` runs in a thread; return what that returned, and what left."""
    left = []

    async def ask(data):
        left.append(data)
        if answer is None:
            raise LinkUnavailable("the coordinator is away")
        return answer

    async def live():
        port = CountPort(path, "far-away", ask, unheard)
        await port.start()
        try:
            return await asyncio.to_thread(work)
        finally:
            await port.stop()

    return asyncio.run(live()), left


@pytest.fixture
def path(short_path):
    return short_path / "counts.sock"


def test_a_signed_query_leaves_as_it_is_and_the_answer_comes_back(path):
    def work():
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        return ask_elsewhere(path, ASKED)

    found, left = served(path, work, pack_answer(ANSWER))
    assert (found, left) == (ANSWER, [ASKED])
    assert not path.exists()


def _reworded(purpose):
    """A query whose own asker signed that it be of this purpose, in words of their own."""
    fields = json.loads(ASKED)
    signed = canonical_bytes([fields["study"], fields["query"], purpose])
    return canonical_bytes(fields | {"purpose": purpose, "signature": sign(ASKER, "count-query", signed).hex()})


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"x", b"Madame X, douleur thoracique", ASKED[:-1], ASKED + b" ", ASKED.replace(b"G20", b"G21")),
        *(signed_query(STUDY, query("icd10:G20"), site="madame-x-douleur-thoracique"), _reworded("madame-x")),
    ],
    ids=["nothing", "a byte", "a letter", "cut", "longer", "changed", "another hospital's name", "another purpose"],
)
def test_nothing_but_a_signed_query_leaves(path, data):
    def work():
        with pytest.raises(LinkUnavailable):
            ask_elsewhere(path, data)
        return ask_elsewhere(path, _reworded(STUDY.purpose_class))

    found, left = served(path, work, pack_answer(ANSWER))
    assert (found, left) == (ANSWER, [ASKED])


def test_a_length_that_no_query_has_is_not_waited_for(path):
    def work():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(struct.pack("!I", 2**31))
            connection.settimeout(5)
            return connection.recv(1)

    assert served(path, work)[0] == b""


def test_without_a_coordinator_or_a_node_it_is_said_what_to_do(path):
    def work():
        with pytest.raises(LinkUnavailable, match="the coordinator did not answer the query"):
            ask_elsewhere(path, ASKED)

    served(path, work)
    with pytest.raises(LinkUnavailable, match="does not answer"):
        ask_elsewhere(path, ASKED)


def test_the_gates_user_is_not_heard_where_it_is_not_the_nodes(path):
    def work():
        with pytest.raises(LinkUnavailable):
            ask_elsewhere(path, ASKED)

    assert served(path, work, pack_answer(ANSWER), unheard=os.geteuid())[1] == []
