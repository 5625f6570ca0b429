"""Which studies wait: from the coordinator's catalogue over the link into the node's folder, believed by signature."""

import asyncio
import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import LinkUnavailable
from fedhealth.link.catalogue import CATALOGUE, MAX_CATALOGUE_BYTES, MAX_STUDIES, catalogue_service, studies_in
from fedhealth.site.offers import OfferedStudies, keep_offers, read_offers
from fedhealth.study.signature import sign_study


@pytest.fixture(scope="module")
def signed(make_protocol):
    return sign_study(make_protocol(), Ed25519PrivateKey.generate())


class FakeLink:
    """Answers as the service does that a coordinator has for a site."""

    def __init__(self, service=None):
        self.service, self.asked, self.asking = service, 0, False

    async def ask(self, service, body, timeout, longest_answer):
        self.asked, self.asking = self.asked + 1, True
        try:
            return await self.answered(service, body, timeout, longest_answer)
        finally:
            self.asking = False

    async def answered(self, service, body, _timeout, longest_answer):
        assert (service, body, longest_answer) == (CATALOGUE, b"", MAX_CATALOGUE_BYTES)
        if self.service is None:
            raise LinkUnavailable("no link")

        class Empty:
            async def whole(self):
                return b""

        answer = await self.service.answer(Empty())
        return b"".join([bytes(chunk) async for chunk in answer.chunks])


def fetched(link, node):
    async def scene():
        offers = OfferedStudies(link, node)
        offers.connected()
        await heard(link, 1)
        offers.stop()

    asyncio.run(scene())


async def heard(link, times):
    """Wait until the link was asked so many more times and the node has done with the last answer."""
    wanted = link.asked + times
    while link.asked < wanted or link.asking:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)


@given(studies=st.lists(st.binary(min_size=1, max_size=50), max_size=MAX_STUDIES))
def test_a_catalogue_holds_the_bytes_of_each_study(studies):
    link = FakeLink(catalogue_service(studies))
    catalogue = asyncio.run(link.ask(CATALOGUE, b"", 1, MAX_CATALOGUE_BYTES))
    assert studies_in(catalogue) == tuple(studies)
    assert studies_in(memoryview(catalogue)) == tuple(studies)


@given(data=st.binary(max_size=60))
def test_anything_else_is_refused_or_gives_back_what_it_holds(data):
    try:
        studies = studies_in(data)
    except LinkUnavailable:
        return
    assert b"".join(len(study).to_bytes(4, "big") + study for study in studies) == data


def test_more_studies_than_the_limit_are_refused():
    with pytest.raises(LinkUnavailable, match="list of studies is not one"):
        studies_in(b"\0\0\0\1x" * (MAX_STUDIES + 1))


def test_what_is_offered_is_kept_until_it_is_offered_no_more(tmp_path, signed):
    fetched(FakeLink(catalogue_service([signed])), tmp_path)
    ((path, study),) = read_offers(tmp_path).items()
    assert path.read_bytes() == signed
    assert study.study.digest in json.dumps(study.study.digest)
    fetched(FakeLink(), tmp_path)  # a link that fails takes nothing away
    assert list(read_offers(tmp_path)) == [path]
    fetched(FakeLink(catalogue_service([])), tmp_path)
    assert read_offers(tmp_path) == {}


def test_a_study_that_is_submitted_while_the_site_is_connected_is_offered_without_a_new_connection(
    tmp_path, signed, monkeypatch
):
    monkeypatch.setattr("fedhealth.site.offers.ASK_AGAIN_SECONDS", 0.001)
    waiting = []

    async def scene():
        link = FakeLink(catalogue_service(waiting))
        offers = OfferedStudies(link, tmp_path)
        offers.connected()
        await heard(link, 1)
        assert read_offers(tmp_path) == {}
        waiting.append(signed)
        await heard(link, 2)
        assert len(read_offers(tmp_path)) == 1
        link.service = None  # a question that fails ends nothing
        await heard(link, 2)
        waiting.clear()
        link.service = catalogue_service(waiting)
        await heard(link, 2)
        assert read_offers(tmp_path) == {}
        offers.stop()
        asked = link.asked
        await asyncio.sleep(0.05)
        assert link.asked == asked

    asyncio.run(scene())


def test_what_no_researcher_signed_is_not_listed(tmp_path, signed, caplog):
    keep_offers(tmp_path / "offers", (signed.replace(b"Ward", b"Word"), b"\xff" * 100, signed))
    assert len(read_offers(tmp_path)) == 1
    assert "left out" in caplog.text


def test_a_node_that_was_taken_over_cannot_make_its_reader_wait_or_follow_a_link(tmp_path, signed):
    (tmp_path / "elsewhere.json").write_bytes(signed)
    folder = tmp_path / "node" / "offers"
    folder.mkdir(parents=True)
    (folder / "link.json").symlink_to(tmp_path / "elsewhere.json")
    (folder / "endless.json").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    with (folder / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    assert read_offers(tmp_path / "node") == {}
    (folder / "plain.json").write_bytes(signed)
    assert len(read_offers(tmp_path / "node")) == 1
