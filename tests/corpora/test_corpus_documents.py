"""What a hostile publisher can make of the documents that are indexed: nothing but articles under its own name."""

import pytest
from corpora_of_sites import KEYS, articles, taken_in

from fedhealth.corpora.corpus import Article, Manifest, line_of, part_named, sign_manifest
from fedhealth.corpora.store import CorpusStore
from fedhealth.search.readers.corpora import read_corpus
from fedhealth.search.readers.problem import Problem
from fedhealth.signing import public_key_hex


def read(tmp_path, *parts, claimed=1):
    """Publish these bytes as mallory's corpus, and read them as the index does."""
    manifest = Manifest(
        site="mallory",
        corpus="open",
        licence="none",
        version=1,
        articles=claimed,
        parts=tuple(map(part_named, parts)),
        key=public_key_hex(KEYS["mallory"].public_key()),
    )
    store = CorpusStore(tmp_path)
    address = taken_in(store, (sign_manifest(manifest, KEYS["mallory"]), parts, ("mallory", "open")))
    return list(read_corpus(store, store.held()[address]))


def test_an_article_is_a_document_of_no_patient_named_by_its_corpus(tmp_path):
    (found,) = read(tmp_path, line_of(Article(key="a\x1b[2J", title="T\n\x07itle", text="A\x1b[31m text.\u202e")))
    assert (found.kind, found.patient, found.source, found.codes) == ("article", None, "open@mallory", ())
    assert (found.key, found.title) == ("a [2J", "T itle")
    assert found.text.isprintable()  # nothing that a terminal would obey


@pytest.mark.parametrize(
    "part",
    [
        b"x",
        b"\xff\xfe\n",
        b'{"date":null,"key":"b","language":null,"patient":"p1","text":"t","title":""}\n',
        b'{"date":null,"key":"b","language":"xx","text":"t","title":""}\n',
        line_of(Article(key="a", text="Twice.")),
        line_of(Article(key="0", text="Before the one before.")),
    ],
    ids=["a byte", "no UTF-8", "a patient", "a language", "a key twice", "out of order"],
)
def test_where_a_corpus_is_damaged_reading_ends_and_what_was_indexed_stays(tmp_path, part):
    first, problem = read(tmp_path, line_of(Article(key="a", text="Good.")), part, claimed=2)
    assert first.key == "a"
    assert isinstance(problem, Problem) and problem.level == "source"  # by which the index removes nothing


def test_another_number_of_articles_than_was_said_is_noted(tmp_path):
    *found, problem = read(tmp_path, b"".join(map(line_of, articles(3))), claimed=200_000)
    assert len(found) == 3
    assert problem == Problem("open@mallory", "", "its publisher says 200,000 articles, and it holds 3", "noted")


def test_a_text_of_control_characters_alone_is_left_out(tmp_path):
    (problem,) = read(tmp_path, line_of(Article(key="a", text="\x07\x08")))
    assert (problem.place, problem.level) == ("a", "left out")
