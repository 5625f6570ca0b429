"""Open articles between three hospitals, over real sockets: published, carried, indexed, searched, withdrawn."""

import asyncio
import contextlib
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tantivy", reason="the extra `search` is not installed")

from fedhealth.coordinator.corpus_desk import remove_corpus
from fedhealth.coordinator.service import Coordinator, Ports
from fedhealth.corpora import carrying
from fedhealth.corpora.store import CorpusStore
from fedhealth.demo.federation import point_node, set_up
from fedhealth.search.documents import DocumentFilter
from fedhealth.search.search_file import Articles
from fedhealth.site import search_index
from fedhealth.site.fetched_corpora import CorpusProblem, FetchStatus, fetch_status
from fedhealth.site.indexed_corpora import corpora_here, indexed
from fedhealth.site.landlock import Sandbox
from fedhealth.site.node import run_node
from fedhealth.site.node_file import load_node_file
from fedhealth.site.publishing import draft_corpus, publish, withdraw_corpus
from fedhealth.site.search_consent import make_index_folder, read_consent
from fedhealth.site.search_domain import SearchDomain
from fedhealth.site.search_index import Filling, open_index
from fedhealth.site.searching import Searching

ROOT = Path(__file__).resolve().parents[2]
SITES = ("cleveland", "hungary", "switzerland")
SHARED_TEXT = "Prone positioning improves oxygenation in severe acute respiratory distress."
OF_HUNGARY = [
    {"pmid": "1", "title": "Prone position", "abstract": SHARED_TEXT, "year": 2019},
    {"pmid": "2", "title": "Gout", "abstract": "Colchicine shortens attacks of gout.", "year": "2020"},
]
OF_SWITZERLAND = [
    {"id": "ch-1", "title": "Prone  position", "text": f" {SHARED_TEXT}"},
    {"id": "ch-2", "title": "Altitude", "text": "Acetazolamide prevents acute mountain sickness."},
]

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("articles")
    for name in SITES:
        shutil.copytree(ROOT / "sites" / name, folder / "sites" / name)
    return set_up(folder / "run", ROOT / "protocols" / "heart-disease-diagnosis.toml", folder / "sites")


@contextlib.asynccontextmanager
async def running(federation, monkeypatch):
    """Run a coordinator and the nodes of all sites, which fetch a hundred times a second."""
    monkeypatch.setattr(carrying, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(carrying, "PACE_SECONDS", 0.0)
    coordinator = Coordinator(federation.home, None, True, lambda _: None)
    port = await coordinator.start(Ports("127.0.0.1:0"))
    nodes = []
    for site in federation.sites:
        point_node(site, f"127.0.0.1:{port}")
        nodes.append(asyncio.create_task(run_node(site.state, load_node_file(site.state.node), lambda _: None)))
    try:
        yield
    finally:
        for node in nodes:
            node.cancel()
        await asyncio.gather(*nodes, return_exceptions=True)
        await coordinator.close()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def here(site):
    """Return the corpora of other sites that a site has, as their names and whether they are withdrawn."""
    return {
        f"{corpus}@{name}": held.manifest.withdrawn
        for (name, corpus), held in CorpusStore(site.state.fetched).held().items()
    }


def offer(site, lines, folder, name="open"):
    path = folder / f"{site.file.id}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    draft = draft_corpus(path, Articles(name=name, path=path, reader="articles"), "CC0-1.0", site.file, (site.folder,))
    return publish(draft, site.file.id, site.state)


class Index:
    """A site's index of articles alone, and its searches."""

    def __init__(self, site, terms):
        self.site, self.folder = site, make_index_folder(site.state)
        for path in terms.iterdir():
            shutil.copy(path, self.folder)
        (site.folder / "search.toml").write_text('[[sources]]\nname = "own"\nreader = "articles"\npath = "own.jsonl"\n')
        (site.folder / "own.jsonl").write_text('{"id": "o-1", "title": "Fever", "text": "Aspirin lowers fever."}\n')

    def fill(self):
        counts, consent = {}, read_consent(self.site.state, self.site.folder)
        index, _ = open_index(self.folder, consent, create=True)
        with index:
            filling = Filling(self.folder, index, consent, lambda count: counts.update({count.source: count}))
            filling.bring_up_to_date(self.site.folder, *corpora_here(self.site.state))
        return counts

    def search(self, query):
        consent = read_consent(self.site.state, self.site.folder)
        index, _ = open_index(self.folder, consent)
        with index:
            searching = Searching(SearchDomain(self.folder, consent, Sandbox(0), "alice"), index)
            return searching.search(query, DocumentFilter(), include_negated=False, limit=5)


def found(answer):
    return [(hit.document.source, hit.document.key, hit.publishers) for hit in answer.hits]


def test_articles_of_two_hospitals_are_searched_at_the_third_until_they_are_withdrawn(
    federation, tmp_path, monkeypatch, compiled_terms
):
    cleveland, hungary, switzerland = federation.sites
    index = Index(cleveland, compiled_terms)
    index.fill()
    assert found(index.search("prone position")) == []

    async def published():
        async with running(federation, monkeypatch):
            offer(hungary, OF_HUNGARY, tmp_path)
            offer(switzerland, OF_SWITZERLAND, tmp_path, "alps")
            await until(lambda: here(cleveland) == {"open@hungary": False, "alps@switzerland": False})
            await until(lambda: here(hungary) == {"alps@switzerland": False})

    asyncio.run(published())
    counts = index.fill()
    assert {name: (each.added, each.elsewhere) for name, each in counts.items()} == {
        "own": (0, 0),
        "open@hungary": (2, 0),
        "alps@switzerland": (1, 1),
    }
    answer = index.search("prone position")
    assert found(answer)[0] == ("open@hungary", "1", ("hungary", "switzerland"))
    assert found(index.search("fever"))[0] == ("own", "o-1", ())
    assert {(each.site, each.corpus, each.licence, each.articles) for each in answer.searched.corpora} == {
        ("hungary", "open", "CC0-1.0", 2),
        ("switzerland", "alps", "CC0-1.0", 2),
    }
    assert answer.searched.heard is not None

    async def taken_back():
        async with running(federation, monkeypatch):
            withdraw_corpus("open", "hungary", hungary.state)
            await until(lambda: here(cleveland).get("open@hungary"))

    asyncio.run(taken_back())
    counts = index.fill()
    assert (counts["open@hungary"].removed, counts["alps@switzerland"].added) == (2, 1)
    assert found(index.search("prone position"))[0] == ("alps@switzerland", "ch-1", ("switzerland",))
    assert found(index.search("colchicine gout")) == []

    async def removed():
        remove_corpus(federation.home.corpora, ("switzerland", "alps"), removed=True)
        async with running(federation, monkeypatch):
            await until(lambda: "alps@switzerland" not in here(cleveland))

    asyncio.run(removed())
    assert index.fill()["alps@switzerland"].removed == 2
    assert not (federation.home.corpora / "switzerland" / "alps").exists()

    async def handed_on_again():
        remove_corpus(federation.home.corpora, ("switzerland", "alps"), removed=False)
        async with running(federation, monkeypatch):
            await until(lambda: here(cleveland).get("alps@switzerland") is False)

    asyncio.run(handed_on_again())
    with monkeypatch.context() as full:
        full.setattr(search_index, "LEAST_FREE_BYTES", 2**70)
        (problem,) = index.fill()["alps@switzerland"].problems
        assert (problem.what, problem.level) == ("the disk is too full for more articles", "source")
    assert index.fill()["alps@switzerland"].added == 2


def test_which_hospitals_are_missing_is_said_by_when_the_coordinator_heard_them():
    # Days of 86,400 seconds: at = day 3, so that va was heard two days before, and budapest an hour before.
    status = FetchStatus(
        at=3 * 86_400,
        heard={"budapest": 3 * 86_400 - 3600, "va": 86_400, "bern": None, "graz": 3 * 86_400},
        problems=(CorpusProblem(site="graz", corpus="open", why="signed with another key"),),
    )
    said = indexed([], status, {})
    assert said.missing == {
        "va": "away since 1970-01-02",
        "bern": "away since the coordinator was started",
        "graz": "'open' is not here in its newest version",
    }
    assert said.heard_at().isoformat() == "1970-01-04T00:00:00+00:00"
    assert indexed([], None, {}).heard_at() is None


def test_a_status_that_a_node_garbled_is_none(tmp_path):
    for text in ("", "{", '{"at": "x"}', '{"at": 1, "heard": {}, "more": 1}'):
        (tmp_path / "status.json").write_text(text)
        assert fetch_status(tmp_path) is None
