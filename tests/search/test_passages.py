from hypothesis import given
from hypothesis import strategies as st

from fedhealth.search.documents import Section
from fedhealth.search.passages import (
    LEAST_WORDS_OF_LAST,
    MOST_CHARACTERS,
    MOST_SENTENCE_CHARACTERS,
    MOST_WORDS,
    passages_of,
    sentences_of,
)
from fedhealth.search.sections import said_by_heading, sections_of

WRITTEN = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "Motif :",
                "\n",
                "\r\n",
                "CONCLUSION\n",
                "ALLERGIES: , None.,",
                "- ",
                "Dr. ",
                ". ",
                "Toux.",
                "3.5 mg ",
                "?",
                "# A\n",
            ]
        ),
        st.text(max_size=40),
        st.integers(1, 400).map(lambda count: "mot " * count),
        st.integers(1, 4000).map(lambda count: "x" * count),
    )
).map("".join)


def sentences(text):
    return [text[start:end].strip() for start, end in sentences_of(text, 0, len(text))]


@given(WRITTEN)
def test_sections_passages_and_sentences_cover_the_text_to_the_last_character(text):
    at = 0
    for section in sections_of(text):
        assert section.start == at
        for passage in passages_of(text, section):
            for start, end in passage:
                assert start == at
                assert start < end <= section.end
                at = end
        assert at == section.end
    assert at == len(text)


@given(WRITTEN)
def test_a_passage_is_bounded_whatever_the_text(text):
    """A full passage, a rest joined to it, and no more than a sentence beyond either."""
    for section in sections_of(text):
        for passage in passages_of(text, section):
            assert all(end - start <= MOST_SENTENCE_CHARACTERS for start, end in passage)
            assert passage[-1].end - passage[0].start <= 2 * MOST_CHARACTERS
            words = [len(text[start:end].split()) for start, end in passage]
            assert sum(words) <= max(MOST_WORDS, *words) + LEAST_WORDS_OF_LAST


def test_a_sentence_does_not_end_in_an_abbreviation_or_a_number():
    text = "Le Dr. de garde prescrit 3.5 mg de warfarine. Contrôle dans 8 jours."
    assert sentences(text) == ["Le Dr. de garde prescrit 3.5 mg de warfarine.", "Contrôle dans 8 jours."]


def test_a_line_that_was_broken_for_its_width_is_no_end():
    wrapped = "Le scanner thoracique réalisé ce jour ne retrouve pas de lésion\nsuspecte du parenchyme."
    assert sentences(f"{wrapped}\nCoeur normal\nFoie normal") == [wrapped, "Coeur normal", "Foie normal"]


def test_items_of_a_list_are_sentences():
    assert sentences("- fièvre : non\n- toux : oui\n* dyspnée") == ["- fièvre : non", "- toux : oui", "* dyspnée"]


def test_a_passage_takes_whole_sentences():
    """Sentences of 30 words: three make 90, the least is 80; 240 words are 90, 90 and the rest of 60."""
    text = " ".join("Mot" + " mot" * 28 + " fin." for _ in range(8))
    passages = list(passages_of(text, Section("", 0, len(text))))
    assert [len(passage) for passage in passages] == [3, 3, 2]


def test_finds_headings_in_lines_in_capitals_and_in_text_without_lines():
    french = "Motif : toux\n\nANTECEDENTS\n- HTA\n\nAntécédents familiaux :\nPère diabétique.\nCONCLUSION : RAS"
    assert [each.title for each in sections_of(french)] == [
        "Motif",
        "ANTECEDENTS",
        "Antécédents familiaux",
        "CONCLUSION",
    ]
    english = "SUBJECTIVE:,  She has a cough.,PAST MEDICAL HISTORY: , Asthma.,ALLERGIES: , None."
    assert [each.title for each in sections_of(english)] == ["SUBJECTIVE", "PAST MEDICAL HISTORY", "ALLERGIES"]
    assert [each.title for each in sections_of("# Methods\nWe did.\n## Results\nIt was: good.")] == [
        "Methods",
        "Results",
    ]


def test_a_sentence_with_a_colon_is_no_heading():
    assert [each.title for each in sections_of("Le patient va bien. Il demande : rien de plus.")] == [""]


def test_heading_says_whose_findings_follow():
    said = {
        "Antécédents familiaux": "family",
        "FAMILY HISTORY": "family",
        "ATCD": "history",
        "PAST SURGICAL HISTORY": "history",
        "Histoire de la maladie": "affirmed",
        "HISTORY OF PRESENT ILLNESS": "affirmed",
        "Diagnostics différentiels": "hypothesis",
        "Conclusion": "affirmed",
        "": "affirmed",
    }
    assert {title: said_by_heading(title) for title in said} == said
