"""What a question is read as: its words, what it denies, its codes and identifiers; and what cannot be asked."""

import dataclasses

import pytest

from fedhealth.errors import ConfigInvalid
from fedhealth.search.query import MAX_QUERY_CHARACTERS, SearchRequest, clean, read_question

CODES_AND_IDENTIFIERS = {
    "a code": ("I50.1", ("icd10:I50.1",), ()),
    "a code without its dot, in small letters": ("i501", ("icd10:I50.1",), ()),
    "a code with a space": ("I 50.1", ("icd10:I50.1",), ()),
    "a code with a hyphen": ("i50-1", ("icd10:I50.1",), ()),
    "a code with a comma, its classification named": ("CIM-10 : I50,1", ("icd10:I50.1",), ()),
    "a category as classifications write it": ("I50.-", ("icd10:I50",), ()),
    "a group of drugs": ("A10BA", ("atc:A10BA",), ()),
    "a category that is a group of drugs, too": ("b01", ("icd10:B01",), ()),
    "a drug's code in parts": ("a10 ba 02", ("atc:A10BA02",), ()),
    "a code twice": ("I50.1 ou I50.1", ("icd10:I50.1",), ()),
    "no code in a temperature": ("fièvre T 38.5", (), ("38.5",)),
    "a category among words": ("patients with I21 last year", ("icd10:I21",), ()),
    "a drug's code": ("A10BA02", ("atc:A10BA02",), ()),
    "an identifier with signs": ("A-2041/7", (), ("A-2041/7",)),
    "a trial": ("NCT01234567 results", (), ("NCT01234567",)),
    "a long number": ("dossier 8001234567", (), ("8001234567",)),
    "no code that is denied": ("I21 sans I50", ("icd10:I21",), ()),
    "no code in small letters among words": ("the c34 study", (), ()),
    "no code but an identifier where no classification has": ("X99.9Z vitamin B12", (), ("X99.9Z",)),
    "no identifier": ("type 2, 30-day, 50 mg, COVID-19", (), ()),
}


@pytest.mark.parametrize(("query", "codes", "identifiers"), CODES_AND_IDENTIFIERS.values(), ids=CODES_AND_IDENTIFIERS)
def test_recognises_codes_and_identifiers(terminology, query, codes, identifiers):
    question = read_question(query, terminology)
    assert (question.codes, question.identifiers) == (codes, identifiers)


def test_who_asks_for_a_code_asks_for_no_words(terminology):
    assert read_question("I50.1", terminology).words == ()
    assert read_question("code CIM-10 : I50.1", terminology).words == ()
    assert not read_question("I50.1", terminology).has_meaning
    assert read_question("I50.1 chez la femme", terminology).has_meaning


DENIED = {
    "sans": ("douleur thoracique sans troponine", {"troponine"}),
    "pas de": ("toux, pas de fièvre", {"fièvre"}),
    "without": ("chest pain without dyspnea", {"dyspnea"}),
    "a sentence is about all it names": ("Why does aspirin not help without a stent?", set()),
    "a label's own words": ("diabète sucré de type 2, sans complication", set()),
    "what a label leaves unstated": ("otite externe, sans précision", set()),
    "an adjective with non": ("hémorragie non traumatique", set()),
    "a hyphen": ("non-small cell lung cancer", set()),
    "nothing denied": ("fracture du col du fémur", set()),
}


@pytest.mark.parametrize(("query", "denied"), DENIED.values(), ids=DENIED)
def test_reads_what_shall_not_be(terminology, query, denied):
    question = read_question(query, terminology)
    assert {word.written for word in question.words if word.assertion == "negated"} == denied
    assert not question.negates_all


def test_a_hit_should_resemble_what_is_wanted_only(terminology):
    assert read_question("douleur thoracique sans troponine", terminology).wanted == "douleur thoracique"
    assert read_question("chest pain", terminology).wanted == "chest pain"


def test_who_denies_all_asks_for_what_is_denied(terminology):
    question = read_question("pas de fièvre", terminology)
    assert question.negates_all
    assert not question.has_meaning, "to a vector fever and no fever are one"


def test_asks_about_the_family(terminology):
    question = read_question("antécédents familiaux de cancer du sein", terminology)
    assert ("icd10:C50", "family") in {(each.found.concept, each.assertion) for each in question.concepts}


def test_words_of_a_mixed_question_are_all_kept(terminology):
    question = read_question("chest pain chez un patient avec infarctus", terminology)
    assert {each.found.concept for each in question.concepts} >= {"icd10:R07.4", "icd10:I21"}


def test_control_characters_are_spaces():
    assert clean("chest\x00\x1b[31m\u202epain\n") == "chest pain"


@pytest.mark.parametrize(
    "query",
    ["", " \t\n", "\x00\x07", "?!…", "x" * (MAX_QUERY_CHARACTERS + 1)],
    ids=["empty", "spaces", "control", "signs", "long"],
)
def test_refuses_what_has_no_words_or_too_many(query):
    with pytest.raises(ConfigInvalid, match=r"the question (has no words|is too long)") as refused:
        SearchRequest(query)
    assert "xxx" not in str(refused.value)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_refuses_a_number_of_hits_out_of_range(limit):
    with pytest.raises(ConfigInvalid, match="number of hits"):
        SearchRequest("fever", limit=limit)


def test_a_request_does_not_show_its_question():
    assert "fever" not in repr(SearchRequest("fever"))
    assert dataclasses.replace(SearchRequest("fever"), limit=3).query == "fever"


def test_a_colour_pasted_with_a_word_does_not_split_it():
    assert clean("pneu\x1b[31mmonie\x1b[0m") == "pneumonie"
