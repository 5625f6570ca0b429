"""Questions to an index of a few reports: which are hits, in which order, why, and what was searched.

The reports are made up; what a question must find follows from what they say.
"""

import datetime

import pytest

from fedhealth.search.answering import SearchEngine
from fedhealth.search.documents import Code, Document, DocumentFilter
from fedhealth.search.encoder import Encoder
from fedhealth.search.index import SearchIndex
from fedhealth.search.query import SearchRequest
from fedhealth.search.reading import read_document

TEXTS = {
    "troponin-negative": "Patient admis pour douleur thoracique. Pas de dyspnée. Troponine négative.",
    "troponin-positive": "Douleur thoracique avec troponine élevée. Infarctus du myocarde.",
    "no-effusion": "Scanner : pas d'épanchement pleural.",
    "effusion": "Épanchement pleural droit abondant, ponction réalisée.",
    "heart-attack": "The patient was admitted with a heart attack, no fever.",
    "pneumonia": "Fièvre à 39, pneumonie du lobe inférieur droit.",
    "hip": "Fracture de la hanche gauche. Antécédents familiaux : mère avec un cancer du sein.",
    "sample": "Prélèvement A-2041/7 reçu, culture stérile.",
    "english-hip": "Hip replacement was performed without complications.",
    "breast-cancer": "Breast cancer, treated by surgery.",
}


def document(key, text):
    return Document(
        key,
        f"patient of {key}",
        "letter" if key == "hip" else "report",
        "",
        text,
        date=datetime.date(2024, 5, 1) if key == "effusion" else None,
        sex="female" if key == "breast-cancer" else None,
        age=71 if key == "hip" else None,
        codes=(Code("icd10", "J18.9"),) if key == "sample" else (),
        source="reports",
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory, terminology):
    encoder = Encoder()
    with SearchIndex.open(tmp_path_factory.mktemp("site") / "index", create=True) as index:
        documents = (document(key, text) for key, text in TEXTS.items())
        index.add(documents, lambda each: read_document(each, terminology), terminology.ancestors)
        index.fill_vectors(encoder)
        yield SearchEngine(index, terminology, encoder)


def found(engine, query, **wanted):
    return [hit.document.key for hit in engine.search(SearchRequest(query, **wanted)).hits]


FIRST = {
    "words": ("ponction", ["effusion"]),
    "an abbreviation": ("IDM", ["troponin-positive", "heart-attack"]),
    "the other language, by its concept": ("myocardial infarction", ["troponin-positive", "heart-attack"]),
    "the other language, by its words": ("hanche", ["hip", "english-hip"]),
    "a typing error": ("pneumonei", ["pneumonia"]),
    "a typing error within a term": ("crise cardiaqeu", ["troponin-positive"]),
    "no accents": ("epanchement", ["effusion"]),
    "a code that a source states": ("J18.9", ["sample"]),
    "a code above those found": ("J18", ["pneumonia", "sample"]),
    "an identifier": ("A-2041/7", ["sample"]),
    "an identifier among words": ("patient admis pour douleur A-2041/7", ["sample"]),
    "what is denied": ("pas de fièvre", ["heart-attack"]),
    "the family": ("antécédents familiaux de cancer du sein", ["hip"]),
    "a meaning": ("infection of the lung with high temperature", ["pneumonia"]),
    "control characters": ("\x00ponc\u200btion\x07 ponction", ["effusion"]),
    "two languages": ("hip fracture de la hanche", ["hip"]),
    "10,000 characters": ("pneumonie " * 1000, ["pneumonia"]),
}


@pytest.mark.parametrize(("query", "first"), FIRST.values(), ids=FIRST)
def test_finds_first(engine, query, first):
    assert sorted(found(engine, query)[: len(first)]) == sorted(first)


NEVER = {
    "a finding that the text denies": ("épanchement pleural", "no-effusion"),
    "the same in the other language": ("pleural effusion", "no-effusion"),
    "a symptom that the text denies": ("dyspnée", "troponin-negative"),
    "what the question denies": ("douleur thoracique sans troponine", "troponin-positive"),
    "a code that the question denies": ("fièvre ou fracture sans J18", "pneumonia"),
    "a disease of the family": ("cancer du sein", "hip"),
    "what is affirmed, asked for as denied": ("pas de fièvre", "pneumonia"),
}


@pytest.mark.parametrize(("query", "never"), NEVER.values(), ids=NEVER)
def test_is_no_hit(engine, query, never):
    assert never not in found(engine, query)


def test_what_is_denied_is_found_by_who_asks_for_all(engine):
    assert "no-effusion" in found(engine, "épanchement pleural", include_negated=True)


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        (DocumentFilter(kinds=frozenset({"letter"})), {"hip"}),
        (DocumentFilter(since=datetime.date(2024, 1, 1), until=datetime.date(2024, 12, 31)), {"effusion"}),
        (DocumentFilter(youngest=70, oldest=80), {"hip"}),
        (DocumentFilter(sex="female"), {"breast-cancer"}),
        (DocumentFilter(codes=frozenset({Code("icd10", "J18")})), {"sample", "pneumonia"}),
        (DocumentFilter(patient="patient of sample"), {"sample"}),
    ],
    ids=["kind", "period", "age", "sex", "code", "patient"],
)
def test_filters_leave_out_the_rest(engine, only, kept):
    query = "fracture, cancer, épanchement, pneumonie, culture"
    answer = engine.search(SearchRequest(query, only=only))
    assert {hit.document.key for hit in answer.hits} == kept
    assert answer.searched.only == only


def test_says_why_and_where(engine):
    hit = engine.search(SearchRequest("heart attack")).hits[0]
    assert hit.document.key == "heart-attack"
    marked = [TEXTS["heart-attack"][each.start : each.end] for each in hit.highlights]
    assert marked == ["heart attack"]
    assert hit.reasons[0].startswith("speaks of I21 Infarctus aigu du myocarde = Acute myocardial infarction")
    assert any(each.startswith("similar in meaning") for each in hit.reasons)


def test_says_how_the_text_speaks_of_what_was_asked(engine):
    hit = engine.search(SearchRequest("douleur thoracique sans troponine")).hits[0]
    assert hit.document.key == "troponin-negative"
    assert "has (negated): troponine" in hit.reasons


def test_says_whether_words_are_in_the_title_or_nowhere(tmp_path, terminology):
    texts = {"Asthma": "It narrows the airways.", "Wheezing": "A whistling sound while breathing."}
    with SearchIndex.open(tmp_path / "index", create=True) as index:
        articles = (Document(title, None, "article", title, text, source="web") for title, text in texts.items())
        index.add(articles, lambda each: read_document(each, terminology), terminology.ancestors)
        index.fill_vectors(encoder := Encoder())
        titled, near = SearchEngine(index, terminology, encoder).search(SearchRequest("asthma")).hits
    assert (titled.document.key, near.document.key) == ("Asthma", "Wheezing")
    assert titled.reasons[0] == "its title has: asthma"
    assert len(near.reasons) == 1
    assert near.reasons[0].startswith("none of the words, but similar in meaning (")


def test_an_article_is_about_what_it_denies(tmp_path, terminology):
    texts = {
        "denies": "We found no association of migraine with thrombosis.",
        "affirms": "Migraine with fever was treated by rest.",
        "without": "Migraine without fever was treated by rest.",
    }
    with SearchIndex.open(tmp_path / "index", create=True) as index:
        articles = (Document(key, None, "article", "", text, source="web") for key, text in texts.items())
        index.add(articles, lambda each: read_document(each, terminology), terminology.ancestors)
        words_alone = SearchEngine(index, terminology, None)
        assert found(words_alone, "migraine thrombosis")[0] == "denies"
        assert set(found(words_alone, "migraine without fever")) == {"denies", "without"}


def test_says_what_was_understood_and_searched(engine):
    answer = engine.search(SearchRequest("pneumonei sans fièvre"))
    assert answer.unknown == ("pneumonei",)
    assert answer.denied == ("fièvre",)
    assert any(line.startswith("R50 ") for line in answer.understood)
    searched = answer.searched
    assert (searched.documents, searched.without_vector, searched.by_meaning) == ({"reports": len(TEXTS)}, 0, True)
    assert not engine.search(SearchRequest("A-2041/7")).searched.by_meaning


def test_says_what_term_a_misspelled_one_was_understood_as(engine):
    answer = engine.search(SearchRequest("crise cardiaqeu"))
    assert answer.unknown == ("cardiaqeu", "crise", "cardiaque")
    assert [line[:4] for line in answer.understood] == ["I21 "]


def test_who_asks_for_a_code_gets_nothing_similar(engine):
    assert set(found(engine, "I21")) == {"troponin-positive", "heart-attack"}
    assert found(engine, "Z99.9") == []


def test_answers_by_words_until_vectors_are_there(tmp_path, terminology):
    with SearchIndex.open(tmp_path / "index", create=True) as index:
        assert SearchEngine(index, terminology, None).search(SearchRequest("fever")).hits == ()
        index.add([document("effusion", TEXTS["effusion"])], lambda each: read_document(each, terminology))
        answer = SearchEngine(index, terminology, Encoder()).search(SearchRequest("pleural effusion"))
        assert [hit.document.key for hit in answer.hits] == ["effusion"]
        assert answer.searched.without_vector == answer.searched.passages == 1


def test_a_limit_cuts_the_same_order(engine):
    query = "douleur, fracture, infarctus, cancer"
    assert found(engine, query, limit=2) == found(engine, query)[:2]


def test_a_letter_in_the_language_of_few_is_found_by_its_words_among_many_others(tmp_path, terminology):
    # The words of a language are a field of their own, whose mean length is over all passages.
    english = (document(f"report-{number}", f"Flank pain, day {number}, chest clear.") for number in range(300))
    letter = document("letter", "Douleur thoracique depuis deux jours.")
    with SearchIndex.open(tmp_path / "index", create=True) as index:
        index.add([*english, letter], lambda each: read_document(each, terminology), terminology.ancestors)
        words_alone = SearchEngine(index, terminology, None)
        assert found(words_alone, "douleur thoracique")[0] == "letter"
        assert found(words_alone, "douleur depuis deux jours")[0] == "letter"


def test_what_only_denies_is_counted_as_left_out_also_where_nothing_else_is_found(tmp_path, terminology):
    with SearchIndex.open(tmp_path / "index", create=True) as index:
        denials = [document(f"report-{number}", "Pas d'épanchement.") for number in range(3)]
        index.add(denials, lambda each: read_document(each, terminology), terminology.ancestors)
        answer = SearchEngine(index, terminology, None).search(SearchRequest("épanchement"))
        assert (answer.hits, answer.searched.left_out) == ((), 3)
        shown = SearchEngine(index, terminology, None).search(SearchRequest("épanchement", include_negated=True))
        assert (len(shown.hits), shown.searched.left_out) == (3, 0)
