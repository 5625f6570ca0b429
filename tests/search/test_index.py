"""What an index finds, leaves out, and says of itself, on made-up letters."""

import sqlite3
from datetime import date

import pytest
from made_up_index import INFARCTION, HashEncoder, ancestors, letter, read

from fedhealth.errors import DataUnusable
from fedhealth.search.documents import Code, Document, DocumentFilter
from fedhealth.search.index import Added, SearchIndex
from fedhealth.search.lexical import Clause
from fedhealth.search.rebuilding import rebuild_index

EFFUSION = letter("a", "Épanchement pleural droit. Pas de fièvre.")
NO_EFFUSION = letter("b", "Il n'y a pas d'épanchement ce jour.", patient="p-2")


@pytest.fixture
def index(tmp_path):
    with SearchIndex.open(tmp_path / "index", create=True) as index:
        yield index


def texts(index, found):
    return [each.passage.text.strip() for each in index.passages([one.passage for one in found])]


def matching(index, text, only=None, **clause):
    return texts(index, index.matching([Clause(text, **clause)], only or DocumentFilter()))


def test_a_document_is_found_by_its_words_at_once_without_accents_and_in_another_form(index):
    index.add([EFFUSION], read)
    for words in ("épanchement", "EPANCHEMENT", "les epanchements pleuraux"):
        assert matching(index, words) == ["Épanchement pleural droit."]


def test_a_negated_word_is_found_only_by_who_asks_for_it(index):
    index.add([EFFUSION, NO_EFFUSION], read)
    assert matching(index, "épanchement") == ["Épanchement pleural droit."]
    assert matching(index, "épanchement", standings={"negated": 1.0}) == ["Il n'y a pas d'épanchement ce jour."]
    assert len(matching(index, "épanchement", standings={"affirmed": 1.0, "negated": 0.5})) == 2


@pytest.mark.parametrize(
    ("match", "asked", "found"),
    [
        ("phrase", "A-2041/7", True),
        ("phrase", "2041 A", False),
        ("phrase", "12/05/2024", True),
        ("typo", "prothse", True),
        ("typo", "prohtèse", True),
        ("typo", "protes", False),
        ("typo", "fractrues", True),
        ("words", "prothse", False),
        ("typo", "a", False),
        ("words", "...", False),
    ],
)
def test_identifiers_and_typing_errors(index, match, asked, found):
    index.add([letter("a", "Prothèse numéro A-2041/7 après fractures, vu le 12/05/2024 ici.")], read)
    assert bool(matching(index, asked, match=match)) == found


@pytest.mark.parametrize(
    ("concept", "standing", "keys"),
    [
        ("icd10:I21.9", "affirmed", {"a"}),
        ("icd10:I20-I25", "affirmed", {"a"}),
        ("icd10:I21", "negated", {"b"}),
        ("icd10:I21", "title", {"c"}),
        ("icd10:I22", "affirmed", set()),
    ],
)
def test_a_concept_finds_what_is_below_it_as_the_text_speaks_of_it(index, concept, standing, keys):
    documents = [
        letter("a", "Un infarctus récent."),
        letter("b", "Il n'y a pas d'infarctus récent."),
        letter("c", "Rien à dire ici.", codes=(INFARCTION,)),
    ]
    index.add(documents, read, ancestors)
    found = index.matching([Clause(concept, "concept", {standing: 1.0})])
    assert {each.document.key for each in index.passages([one.passage for one in found])} == keys


def test_clauses_add_up_require_and_forbid(index):
    index.add([letter("a", "Toux sèche."), letter("b", "Toux grasse."), letter("c", "Fièvre sèche.")], read)
    cough = Clause("toux", occur="must")
    assert texts(index, index.matching([cough, Clause("sèche")])) == ["Toux sèche.", "Toux grasse."]
    assert texts(index, index.matching([cough, Clause("sèche", occur="must-not")])) == ["Toux grasse."]
    assert index.matching([Clause("sèche", occur="must-not")]) == []


def test_a_word_in_title_and_text_counts_more_than_in_one(index):
    both, title = letter("a", "Toux sèche.", title="Toux"), letter("b", "Fièvre sèche.", title="Toux")
    index.add([both, title, letter("c", "Toux sèche.", title="Fièvre")], read)
    scores = [each.score for each in index.matching([Clause("toux")])]
    # Titles and texts are of one length each and two of three have the word: BM25 is the same in both, and adds 0.6.
    assert scores == pytest.approx([1.6 * scores[2], scores[2], scores[2]])


STATED = {"date": date(2024, 5, 17), "age": 71, "sex": "female", "codes": (INFARCTION,), "language": "fr"}


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        ({"kinds": frozenset({"letter"})}, True),
        ({"kinds": frozenset({"report", "article"})}, False),
        ({"since": date(2024, 5, 17), "until": date(2024, 5, 17)}, True),
        ({"since": date(2024, 5, 18)}, False),
        ({"until": date(2024, 5, 16)}, False),
        ({"youngest": 71, "oldest": 71}, True),
        ({"youngest": 72}, False),
        ({"oldest": 70}, False),
        ({"sex": "female"}, True),
        ({"sex": "male"}, False),
        ({"codes": frozenset({Code("icd10", "I21")})}, True),
        ({"codes": frozenset({Code("icd10", "I22")})}, False),
        ({"languages": frozenset({"fr"})}, True),
        ({"languages": frozenset({"en"})}, False),
        ({"patient": "p-1"}, True),
        ({"patient": "p-3"}, False),
    ],
)
def test_a_filter_keeps_and_leaves_out_by_words_and_by_meaning(index, only, kept):
    index.add([letter("a", "Toux sèche.", **STATED), letter("b", "Toux grasse.", patient="p-2")], read, ancestors)
    index.fill_vectors(encoder := HashEncoder())
    only = DocumentFilter(**only)
    for found in (index.matching([Clause("sèche")], only), index.nearest(encoder.query("Toux sèche."), only)):
        assert ("Toux sèche." in texts(index, found)) == kept


def test_nearest_finds_each_passage_by_its_own_vector_and_never_more_than_there_are(index):
    index.add([letter(f"k{n}", f"Toux numéro {n}. Suite numéro {n}.") for n in range(200)], read)
    assert index.status().without_vector == 400
    encoder = HashEncoder()
    assert index.fill_vectors(encoder) == 400
    assert index.status().without_vector == 0
    for n in (0, 57, 199):
        (best, *_) = index.nearest(encoder.query(f"Suite numéro {n}."), limit=5)
        assert texts(index, [best]) == [f"Suite numéro {n}."]
        assert best.score == pytest.approx(1.0, abs=2e-3)  # halves have 11 bits
    assert len(index.nearest(encoder.query("x"), limit=1000)) == 400


def test_a_half_filled_index_answers_and_says_what_is_missing(index):
    index.add([EFFUSION], read)
    assert index.nearest(HashEncoder().query("x")) == []
    found, rows = index.vectors_of([each.passage for each in index.matching([Clause("épanchement")])])
    assert (found, rows.size) == ([], 0)
    index.fill_vectors(HashEncoder())
    index.add([NO_EFFUSION], read)
    assert (index.status().passages, index.status().without_vector) == (3, 1)
    assert len(index.nearest(HashEncoder().query("x"))) == 2


def test_the_same_content_is_left_alone_and_other_content_takes_its_place(index):
    assert index.add([EFFUSION, NO_EFFUSION], read) == Added(2, 0, 0)
    index.fill_vectors(encoder := HashEncoder())
    changed = letter("b", "Scanner normal.", patient="p-2")
    assert index.add([EFFUSION, changed], read) == Added(0, 1, 1)
    assert matching(index, "épanchement", standings={"negated": 1.0}) == []
    index.fill_vectors(encoder)
    assert len(index.nearest(encoder.query("Scanner normal."), limit=9)) == 3
    assert index.document("letters", "b") == changed


def test_what_is_gone_from_a_source_is_taken_out(index):
    index.add([EFFUSION, NO_EFFUSION], read)
    assert index.keys("letters") == {"a", "b"}
    assert index.patients() == {"p-1", "p-2"}
    assert index.remove("letters", ["a", "unknown"]) == 1
    assert index.keys("letters") == {"b"}
    assert index.patients() == {"p-1", "p-2"}  # words of p-1 may be in files until they are erased
    index.remove_patient("p-1")
    assert index.patients() == {"p-2"}
    assert matching(index, "épanchement") == []


def test_an_article_has_no_patient_and_other_languages_are_found_by_their_words(index):
    article = Document("pmid-1", None, "article", "Herzinsuffizienz", "Die Herzinsuffizienz im Alter.", source="pubmed")

    def read_as_german(document):
        found = read(document)
        return type(found)("de", found.sections, found.passages, found.mentions)

    index.add([article], read_as_german)
    assert matching(index, "herzinsuffizienz") == ["Die Herzinsuffizienz im Alter."]
    assert matching(index, "herzinsuffizienz", standings={"title": 1.0}) == ["Die Herzinsuffizienz im Alter."]


def test_a_passage_comes_back_as_it_was_read_with_its_mentions(index):
    document = letter("a", "Un infarctus récent. Il n'y a pas d'infarctus ancien.", title="Bilan", **STATED)
    index.add([document], read, ancestors)
    first, second = index.passages([one.passage for one in index.matching([Clause("bilan")])])
    assert (first.passage, second.passage) == read(document).passages
    assert [each.assertion for each in first.mentions + second.mentions] == ["affirmed", "negated"]
    assert first.concepts == (("icd10:I21.9", "icd10:I20-I25", "icd10:I21"),)
    assert (first.document.title, first.document.age, first.language) == ("Bilan", 71, "fr")


def test_vectors_of_two_encoders_are_not_mixed_and_a_rebuild_makes_room_for_another(index, tmp_path):
    index.add([EFFUSION], read)
    index.fill_vectors(HashEncoder())
    other = HashEncoder()
    other.name = "hash 2"
    with pytest.raises(DataUnusable, match="rebuild --vectors"):
        index.fill_vectors(other)
    rebuild_index(tmp_path / "index", read, keep_vectors=False)
    assert index.fill_vectors(other) == 2


def test_a_rebuild_reads_anew_and_keeps_the_vectors_of_passages_that_stay(index, tmp_path):
    index.add([letter("a", "Toux sèche. Fièvre. Frissons."), NO_EFFUSION], read)
    index.fill_vectors(encoder := HashEncoder())

    def read_longer_ones(document):
        found = read(document)
        return type(found)(found.language, (), tuple(p for p in found.passages if len(p.text) > 10), ())

    assert rebuild_index(tmp_path / "index", read_longer_ones) == 2
    assert matching(index, "frissons") == []  # nine letters and a point
    assert index.status().without_vector == 0
    (best, *_) = index.nearest(encoder.query("Toux sèche."))
    assert texts(index, [best]) == ["Toux sèche."]


def test_another_format_is_refused_with_the_way_out_and_a_rebuild_is_the_way_out(tmp_path):
    folder = tmp_path / "index"
    with SearchIndex.open(folder, create=True) as index:
        index.add([EFFUSION], read)
    database = sqlite3.connect(next(folder.glob("generation-*/index.sqlite")))
    database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(DataUnusable, match=r"format 7.*format 2.*site index rebuild"):
        SearchIndex.open(folder)
    rebuild_index(folder, read)
    with SearchIndex.open(folder) as index:
        assert matching(index, "épanchement") == ["Épanchement pleural droit."]


@pytest.mark.parametrize("damaged", ["current", "index.sqlite", "lexical/meta.json", "nothing there"])
def test_a_missing_or_damaged_index_is_refused_with_a_next_step(tmp_path, damaged):
    folder = tmp_path / "index"
    if damaged != "nothing there":
        with SearchIndex.open(folder, create=True) as index:
            index.add([EFFUSION], read)
        path = folder / damaged if damaged == "current" else next(folder.glob(f"generation-*/{damaged}"))
        path.write_bytes(b"something else")
    with pytest.raises(DataUnusable, match=r"fedhealth site index|add the documents again"):
        SearchIndex.open(folder)


def test_a_full_disk_is_told_and_leaves_what_was_there(index):
    index.add([EFFUSION], read)
    database = index._files.store._database
    most = database.pragma("max_page_count", database.pragma("page_count"))
    with pytest.raises(DataUnusable, match="disk's space"):
        index.add([letter("long", "Toux sèche. " * 3000)], read)
    assert (index.keys("letters"), matching(index, "épanchement")) == ({"a"}, ["Épanchement pleural droit."])
    database.pragma("max_page_count", most + 10_000)
    index.add([NO_EFFUSION], read)
    assert index.keys("letters") == {"a", "b"}


def test_everything_is_its_owners_only(index, tmp_path):
    index.add([EFFUSION], read)
    index.fill_vectors(HashEncoder())
    index.add([NO_EFFUSION], read)
    index.remove_patient("p-1")
    paths = [tmp_path / "index", *(tmp_path / "index").rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_file()} == {"0o600"}
