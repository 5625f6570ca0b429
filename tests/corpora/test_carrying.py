"""Corpora over the link: fetched as a whole, cut off at any question, and shown by somebody who lies."""

import asyncio
import json

import pytest
from corpora_of_sites import KEYS, articles, signed, taken_in

from fedhealth.canonical import canonical_bytes
from fedhealth.corpora import carrying
from fedhealth.corpora.carrying import CORPORA, MAX_LIST_BYTES, CorpusList, corpora_service, fetch, list_of
from fedhealth.corpora.corpus import MAX_MANIFEST_BYTES
from fedhealth.corpora.store import MAX_CORPORA, MAX_SITES, CorpusRefused, CorpusStore
from fedhealth.errors import LinkUnavailable
from fedhealth.site.fetched_corpora import FetchedCorpora, fetch_status


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(carrying, "PACE_SECONDS", 0.0)


class OtherEnd:
    """Answers as the service does; `lies` changes an answer before it is on its way."""

    def __init__(self, store, heard=None, lies=lambda question, answer: answer, cut_at=None):
        self.store, self.heard, self.lies, self.cut_at = store, heard or {}, lies, cut_at
        self.questions = []

    async def __call__(self, service, body, timeout_seconds, longest_answer):
        assert (service, timeout_seconds) == (CORPORA, 60.0)
        if len(self.questions) == self.cut_at:
            raise LinkUnavailable("the line was cut")
        self.questions.append(json.loads(body) if body else None)

        class Whole:
            async def whole(self):
                return body

        service = corpora_service(lambda: list_of(self.store, self.heard), self.store)
        try:
            answer = await service.answer(Whole())
        except LookupError:
            raise LinkUnavailable("a failure without details") from None  # as the link says it
        data = self.lies(self.questions[-1], b"".join([bytes(chunk) async for chunk in answer.chunks]))
        if len(data) > longest_answer:
            raise LinkUnavailable("the answer is too large")  # as the link says it
        return data


def fetched(other, store, takes=lambda site: True):
    return asyncio.run(fetch(other, store, takes))


def versions(store):
    return {address: held.manifest.version for address, held in store.held().items()}


@pytest.fixture
def there(tmp_path):
    return CorpusStore(tmp_path / "there")


@pytest.fixture
def here(tmp_path):
    return CorpusStore(tmp_path / "here")


def test_all_that_is_listed_is_fetched_and_nothing_twice(there, here):
    taken_in(there, signed(version=1, some=articles(600, "x" * 3000)))
    taken_in(there, signed(site="va", corpus="b"))
    other = OtherEnd(there, {"hungary": 5, "va": None})
    listed, problems = fetched(other, here)
    assert (listed.heard, problems) == ({"hungary": 5, "va": None}, {})
    assert versions(here) == versions(there) == {("hungary", "open"): 1, ("va", "b"): 1}
    again = OtherEnd(there)
    fetched(again, here)
    assert again.questions == [None]  # the list alone


def test_what_is_withdrawn_or_no_longer_listed_goes(there, here):
    taken_in(there, signed())
    taken_in(there, signed(site="va"))
    fetched(OtherEnd(there), here)
    there.accept(*signed(version=2, some=[])[::2])
    there.drop(("va", "open"))
    fetched(OtherEnd(there, {"va": None}), here)
    assert versions(here) == {("hungary", "open"): 2, ("va", "open"): 1}  # va was not heard since a restart
    assert here.held()["hungary", "open"].manifest.withdrawn
    fetched(OtherEnd(there, {"va": 5}), here)
    assert versions(here) == {("hungary", "open"): 2}


def test_cut_off_at_any_question_it_goes_on_and_fetches_no_part_twice(tmp_path, there):
    taken_in(there, signed(some=articles(600, "x" * 3000)))
    whole = OtherEnd(there)
    fetched(whole, CorpusStore(tmp_path / "whole"))
    assert len(whole.questions) >= 5
    for cut_at in range(len(whole.questions)):
        here, cut = CorpusStore(tmp_path / f"cut {cut_at}"), OtherEnd(there, cut_at=cut_at)
        if cut_at == 0:
            with pytest.raises(LinkUnavailable):
                fetched(cut, here)
        else:
            _, problems = fetched(cut, here)
            assert list(problems) == [("hungary", "open")]
        assert here.held() == {}
        rest = OtherEnd(there)
        fetched(rest, here)
        assert versions(here) == versions(there)
        parts = [each["part"] for each in [*cut.questions, *rest.questions] if each and each["part"]]
        assert sorted(parts) == sorted(set(parts))


def replaced(which, by):
    """Lie in the answer to one kind of question."""

    def lies(question, answer):
        kind = "list" if question is None else "part" if question["part"] else "manifest"
        return by(answer) if kind == which else answer

    return lies


def relabelled(answer):
    """List the corpus as another site's."""
    return answer.replace(b'"site":"hungary"', b'"site":"va"')


@pytest.mark.parametrize(
    ("which", "by"),
    [
        ("part", lambda answer: answer[:-1]),
        ("part", lambda answer: answer + b"x"),
        ("part", lambda answer: answer.replace(b"A text", b"A lie!")),
        ("part", lambda answer: b"x" * 2**21),
        ("manifest", lambda answer: answer.replace(b"CC-BY", b"CC-XX")),
        ("manifest", lambda answer: b""),
        ("manifest", lambda answer: b"x" * (MAX_MANIFEST_BYTES + 1)),
        ("manifest", lambda answer: signed(version=9, key=KEYS["mallory"])[0]),
        ("manifest", lambda answer: signed(version=4)[0]),
        ("manifest", lambda answer: signed(site="va", version=9)[0]),
        ("list", relabelled),
    ],
    ids=[
        *("part cut", "part longer", "part altered", "part huge", "manifest altered", "manifest empty"),
        *("manifest huge", "another key", "an older version", "another site's", "relabelled in the list"),
    ],
)
def test_what_a_hostile_end_shows_is_refused_and_what_was_here_stays(there, here, which, by):
    taken_in(here, signed(version=5))
    taken_in(there, signed(version=6, some=articles(4)))
    _, problems = fetched(OtherEnd(there, {"hungary": None}, replaced(which, by)), here)
    assert len(problems) == 1
    assert versions(here) == {("hungary", "open"): 5}
    fetched(OtherEnd(there), here)  # and what is true is taken in afterwards
    assert versions(here) == {("hungary", "open"): 6}


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{}", b"[]", b'{"corpora":[],"heard":{"a":-1}}', b"x" * (MAX_LIST_BYTES + 1)),
        canonical_bytes({"corpora": [{"site": "../x", "corpus": "a", "sha256": "0" * 64}], "heard": {}}),
        canonical_bytes(
            {"corpora": [{"site": "x", "corpus": "a", "sha256": "0" * 64}] * (MAX_SITES * MAX_CORPORA + 1), "heard": {}}
        ),
    ],
    ids=["nothing", "an object", "an array", "a time that is none", "huge", "a path", "too many"],
)
def test_what_is_no_list_is_refused_and_nothing_goes(there, here, data):
    taken_in(here, signed())
    with pytest.raises(LinkUnavailable):
        fetched(OtherEnd(there, lies=replaced("list", lambda _: data)), here)
    assert versions(here) == {("hungary", "open"): 1}


def test_a_site_cannot_bring_another_sites_corpus(there, here):
    taken_in(here, signed(site="va", version=1))
    taken_in(there, signed(site="hungary"))
    taken_in(there, signed(site="va", version=2))
    _, problems = fetched(OtherEnd(there), here, takes=lambda site: site == "hungary")
    assert list(problems) == [("va", "open")]
    assert versions(here) == {("hungary", "open"): 1, ("va", "open"): 1}


def test_a_coordinator_cannot_bring_a_site_articles_in_its_own_name(there, tmp_path):
    for made in (signed("hungary", key=KEYS["mallory"]), signed("va")):
        taken_in(there, made)

    class Link:
        ask = OtherEnd(there, {"hungary": 1, "va": 1})

    async def run():
        (tmp_path / "fetched").mkdir()
        fetching = FetchedCorpora(Link(), tmp_path / "fetched", "hungary")
        fetching.connected()
        while fetch_status(tmp_path / "fetched") is None:
            await asyncio.sleep(0.01)
        fetching.stop()

    asyncio.run(run())
    assert versions(CorpusStore(tmp_path / "fetched")) == {("va", "open"): 1}
    assert [each.site for each in fetch_status(tmp_path / "fetched").problems] == ["hungary"]


def test_what_is_kept_back_is_not_handed_out_to_whoever_knows_its_name(there):
    *_, address = made = signed()
    taken_in(there, made)
    listed = CorpusList(corpora=(), heard={})
    (part,) = there.held()[address].manifest.parts
    for wanted in (None, part.sha256):
        question = canonical_bytes({"site": address[0], "corpus": address[1], "part": wanted})

        class Whole:
            async def whole(self, question=question):
                return question

        with pytest.raises(LookupError):
            asyncio.run(corpora_service(lambda: listed, there).answer(Whole()))


def test_a_full_disk_is_said_and_the_next_fetch_goes_on(there, here, monkeypatch):
    taken_in(there, signed())
    with monkeypatch.context() as full:
        full.setattr("fedhealth.corpora.store.LEAST_FREE_BYTES", 2**70)
        _, problems = fetched(OtherEnd(there), here)
        (problem,) = problems.values()
        assert isinstance(problem, CorpusRefused) and "too full" in str(problem)
    fetched(OtherEnd(there), here)
    assert versions(here) == versions(there)
