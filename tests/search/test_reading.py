"""Reading as an index sees it: whole documents in, passages and mentions out, whatever the text."""

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.search.documents import Code, Document
from fedhealth.search.reading import read_document

REPORT = """COMPTE RENDU
Motif : douleur thoracique.
Antécédents :
- infarctus en 2010
Antécédents familiaux :
- diabète (père)
Examen : pas de fièvre, toux grasse. Suspicion de pneumonie.
"""


@dataclass(frozen=True)
class Found:
    start: int
    end: int
    term: str
    code: Code | None = None


class TermsOfThisTest:
    """Finds six words, one of them with a code."""

    def find_mentions(self, text, language):
        codes = {"pneumonie": Code("icd10", "J18.9")}
        words = re.finditer("douleur thoracique|infarctus|diabète|fièvre|toux|pneumonie", text)
        return [Found(each.start(), each.end(), each.group(), codes.get(each.group())) for each in words]


def read(text, **fields):
    return read_document(Document("k", "p", "report", "", text, **fields), TermsOfThisTest())


def test_mentions_carry_offsets_codes_and_assertions_of_sentence_and_heading():
    found = read(REPORT)
    assert found.language == "fr"
    assert [(REPORT[each.start : each.end], each.assertion) for each in found.mentions] == [
        ("douleur thoracique", "affirmed"),
        ("infarctus", "history"),
        ("diabète", "family"),
        ("fièvre", "negated"),
        ("toux", "affirmed"),
        ("pneumonie", "hypothesis"),
    ]
    assert found.mentions[-1].code == Code("icd10", "J18.9")


def test_words_without_a_code_have_an_assertion_too():
    found = read(REPORT)
    spans = [span for passage in found.passages for span in passage.spans]
    assert ("de fièvre", "negated") in {(REPORT[each.start : each.end].strip(), each.assertion) for each in spans}


def test_language_that_the_source_states_counts():
    assert read("Paracetamol.", language="fr").language == "fr"


def test_capitals_without_punctuation_are_read():
    found = read("ECHO NORMALE PAS DE fièvre")
    assert [each.assertion for each in found.mentions] == ["negated"]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_is_read_and_kept_to_the_last_character(text):
    found = read(text)
    assert "".join(passage.text for passage in found.passages) == text
    assert [passage.number for passage in found.passages] == list(range(len(found.passages)))
    for passage in found.passages:
        section = next(each for each in found.sections if each.start <= passage.start and passage.end <= each.end)
        assert section.title == passage.section


@pytest.mark.parametrize("sign", ["\n", " ", "!", "?", ".", ",", ":", "A", "a ", "1.", "- ", "\r\n", "A:", "(", "é"])
def test_time_to_read_grows_no_faster_than_the_text(sign):
    """With its square, 100,000 characters would take minutes, and the test's time would run out."""
    found = read(sign * (100_000 // len(sign)) + "fin")
    assert "".join(passage.text for passage in found.passages).endswith("fin")


def test_text_without_an_end_is_read_in_bounded_passages():
    found = read("pas de fièvre " * 15_000)
    assert max(len(passage.text) for passage in found.passages) < 2_000
    assert {each.assertion for each in found.mentions} == {"negated"}
