"""Open articles of four hospitals, searched at each of them, against one pooled index.

PubMedQA's articles are dealt out to four real sites by the SHA-256 of their keys. Each publishes its quarter; a
coordinator and four nodes carry the corpora over the real link, with mutual TLS; each site indexes what it published
and fetched, with the code of `fedhealth site index add`. All questions are asked of each site and of one index of all.

Printed: nDCG@10 of each site beside the pooled index's, how many answers are the same to the last place, how long
carrying took and how many bytes the sites fetched.

Run: .venv/bin/python benchmarks/search_federated.py [--questions 1000] [--cache FOLDER]
Encodings are kept in the cache, which is that of benchmarks/search.py.
"""

import argparse
import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

from search import PUBMED, Judged, KeptEncoder, engine_over, judgements, lines_of, mean_over, ndcg

from fedhealth.coordinator.service import Coordinator, Ports
from fedhealth.corpora import carrying
from fedhealth.corpora.store import CorpusStore
from fedhealth.demo.federation import DemoSite, Federation, point_node, set_up
from fedhealth.search.answering import SearchEngine
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Document
from fedhealth.search.query import SearchRequest
from fedhealth.search.search_file import Articles
from fedhealth.site.article_folders import make_article_folders
from fedhealth.site.indexed_corpora import corpora_here
from fedhealth.site.node import run_node
from fedhealth.site.node_file import load_node_file
from fedhealth.site.publishing import draft_corpus, publish
from fedhealth.site.search_consent import make_index_folder, read_consent
from fedhealth.site.search_index import Filling, open_index

ROOT = Path(__file__).resolve().parents[1]
MOST_WORSE = 0.01
TOP = 10


def site_of(key: str, sites: int) -> int:
    """Return which site an article is dealt out to."""
    return hashlib.sha256(key.encode()).digest()[0] % sites


def publish_share(site: DemoSite, articles: list[dict[str, str]], folder: Path) -> None:
    """Publish articles as a site's administrator does."""
    path = folder / f"{site.file.id}.jsonl"
    path.write_text("".join(json.dumps({"_id": each["_id"], "text": each["text"]}) + "\n" for each in articles))
    source = Articles(name="pubmedqa", path=path, reader="articles")
    draft = draft_corpus(path, source, "MIT", site.file, (site.folder, site.state.root))
    publish(draft, site.file.id, site.state)


def whole(federation: Federation) -> bool:
    """Say whether every site has the corpora of all others."""
    return all(len(CorpusStore(site.state.fetched).held()) == len(federation.sites) - 1 for site in federation.sites)


async def carry(federation: Federation) -> float:
    """Run a coordinator and all nodes until every site has every corpus; return the seconds from the first stream."""
    with mock.patch.object(carrying, "EVERY_SECONDS", 0.5):  # instead of ten minutes; the pace within is the real one
        coordinator = Coordinator(federation.home, None, True, lambda _: None)
        port = await coordinator.start(Ports("127.0.0.1:0"))
        began, nodes = time.monotonic(), []
        for site in federation.sites:
            make_article_folders(site.state.root)
            point_node(site, f"127.0.0.1:{port}")
            nodes.append(asyncio.create_task(run_node(site.state, load_node_file(site.state.node), lambda _: None)))
        try:
            async with asyncio.timeout(120):
                while not whole(federation):
                    await asyncio.sleep(0.05)
            return time.monotonic() - began
        finally:
            for node in nodes:
                node.cancel()
            await asyncio.gather(*nodes, return_exceptions=True)
            await coordinator.close()


def engine_at(site: DemoSite, terms: Path, encoder: KeptEncoder) -> SearchEngine:
    """Index what a site published and fetched, and return the engine over it."""
    folder = make_index_folder(site.state)
    for path in terms.iterdir():
        shutil.copy(path, folder)
    (site.folder / "search.toml").write_text('[[sources]]\nname = "own"\nreader = "articles"\npath = "own.jsonl"\n')
    (site.folder / "own.jsonl").touch()
    consent = read_consent(site.state, site.folder)
    index, _ = open_index(folder, consent, create=True)
    filling = Filling(folder, index, consent, lambda _: None)
    filling.bring_up_to_date(site.folder, *corpora_here(site.state))
    index.fill_vectors(encoder)
    return SearchEngine(index, Terminology.load(folder), encoder)


def answers(engine: SearchEngine, asked: dict[str, str]) -> dict[str, list[str]]:
    """Return the keys of the first ten for each question."""
    return {
        name: [hit.document.key for hit in engine.search(SearchRequest(query, limit=TOP)).hits]
        for name, query in asked.items()
    }


def show(site: str, here: dict[str, list[str]], pooled: dict[str, list[str]], judged: dict[str, Judged]) -> None:
    """Print a site's figures beside the pooled ones."""
    for what, some in judged.items():
        figure, anchor = mean_over(ndcg, here, some), mean_over(ndcg, pooled, some)
        met = "met" if figure >= anchor - MOST_WORSE else "MISSED"
        print(f"{site:12} {what:16} nDCG@10 {figure:.4f}   pooled {anchor:.4f}   {figure - anchor:+.4f}   {met}")
    same = sum(here[name] == pooled[name] for name in pooled)
    print(f"{site:12} the same ten in the same order: {same} of {len(pooled)} questions")


def main() -> None:
    """Publish, carry, index, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/fedhealth-search")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    encoder = KeptEncoder(arguments.cache / "vectors.sqlite")
    articles = lines_of(PUBMED / "corpus.jsonl")
    asked = {line["_id"]: line["text"] for line in lines_of(PUBMED / "queries.jsonl")[: arguments.questions]}
    judged = {
        what: {name: grades for name, grades in judgements(PUBMED / file, 1).items() if name in asked}
        for what, file in (("known item", "qrels.tsv"), ("related by MeSH", "qrels_related_mesh.tsv"))
    }
    with tempfile.TemporaryDirectory(prefix="fh-") as scratch:
        folder = Path(scratch)
        shutil.copytree(ROOT / "sites", folder / "sites")
        federation = set_up(folder / "run", ROOT / "protocols/heart-disease-diagnosis.toml", folder / "sites")
        for number, site in enumerate(federation.sites):
            share = [each for each in articles if site_of(each["_id"], len(federation.sites)) == number]
            publish_share(site, share, folder)
            print(f"{site.file.id:12} publishes {len(share)} articles")
        seconds = asyncio.run(carry(federation))
        stores = [CorpusStore(site.state.fetched) for site in federation.sites]
        fetched = sum(held.manifest.bytes for store in stores for held in store.held().values())
        print(f"carried to all sites in {seconds:.1f} s, {fetched / 2**20:.1f} MiB over {len(stores)} links")
        (folder / "terms").mkdir()
        terminology = Terminology.load(folder / "terms")
        documents = (Document(each["_id"], None, "article", "", each["text"], source="pooled") for each in articles)
        pooled = answers(engine_over(documents, folder / "pooled", terminology, encoder), asked)
        for site in federation.sites:
            show(site.file.id, answers(engine_at(site, folder / "terms", encoder), asked), pooled, judged)


if __name__ == "__main__":
    main()
