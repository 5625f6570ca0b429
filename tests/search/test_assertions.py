"""Held to sentences that were labelled before the rules existed, and to tables of one rule each."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.search.assertions import PRECEDENCE, asserted_spans, assertion_of, fold

BEFORE, LATER = (
    [json.loads(line) for line in Path(__file__).with_name(name).read_text().splitlines()]
    for name in ("assertions.jsonl", "assertions_later.jsonl")
)
"""Labelled before any rule was written, and when most were, but before they were run on these."""


def assertion(sentence: str, words: str, language: str, **said: object) -> str:
    start = sentence.index(words)
    spans = asserted_spans(fold(sentence), 0, len(sentence), language, **said)
    return assertion_of(spans, start, start + len(words))


def f1_of_reporting_half(sentences: list[dict], language: str) -> dict[str, float]:
    """F1 by assertion on the sentences whose SHA-256 begins with an odd byte: no rule was tuned on them."""
    right, found, labelled = Counter(), Counter(), Counter()
    for each in sentences:
        if each["language"] != language or hashlib.sha256(each["sentence"].encode()).digest()[0] % 2 == 0:
            continue
        spans = asserted_spans(fold(each["sentence"]), 0, len(each["sentence"]), language)
        for target in each["targets"]:
            got = assertion_of(spans, target["start"], target["end"])
            found[got] += 1
            labelled[target["assertion"]] += 1
            right[got] += got == target["assertion"]
    return {kind: 2 * right[kind] / (found[kind] + labelled[kind]) for kind in labelled}


def test_offsets_of_labels_are_those_of_their_words():
    assert (len(BEFORE), len(LATER)) == (511, 170)
    for each in [*BEFORE, *LATER]:
        for target in each["targets"]:
            assert each["sentence"][target["start"] : target["end"]] == target["words"]


@pytest.mark.parametrize("sentences", [BEFORE, LATER], ids=["before", "later"])
def test_french_negation_and_hypothesis_are_read_better_than_published(sentences):
    """Doc'EDS reaches 0.89 and 0.57."""
    f1 = f1_of_reporting_half(sentences, "fr")
    assert f1["negated"] >= 0.93
    assert f1["hypothesis"] >= 0.75


@pytest.mark.parametrize("sentences", [BEFORE, LATER], ids=["before", "later"])
def test_english_negation_and_hypothesis_are_read_as_well(sentences):
    f1 = f1_of_reporting_half(sentences, "en")
    assert f1["negated"] >= 0.9
    assert f1["hypothesis"] >= 0.75


@pytest.mark.parametrize(
    ("sentence", "words", "expected"),
    [
        ("Pas de lésion hépatique, mais une stéatose.", "lésion hépatique", "negated"),
        ("Pas de lésion hépatique, mais une stéatose.", "stéatose", "affirmed"),
        ("Pas de rougeur, de chaleur ou d'écoulement.", "écoulement", "negated"),
        ("Pas de rougeur, cicatrice propre.", "cicatrice", "affirmed"),
        ("Ni râles, ni sibilants.", "sibilants", "negated"),
        ("Sans doute une bronchite.", "bronchite", "hypothesis"),
        ("Sans aucun doute une bronchite.", "bronchite", "affirmed"),
        ("Pas seulement une bronchite.", "bronchite", "affirmed"),
        ("On ne peut pas éliminer une bronchite.", "bronchite", "hypothesis"),
        ("La radio permet d'éliminer une bronchite.", "bronchite", "negated"),
        ("Bronchite éliminée.", "Bronchite", "negated"),
        ("Bronchite à éliminer.", "Bronchite", "hypothesis"),
        ("Bronchite ?", "Bronchite", "hypothesis"),
        ("Grand-mère : bronchite chronique.", "bronchite", "family"),
        ("La mère signale une bronchite.", "bronchite", "affirmed"),
        ("Antécédents : bronchite.", "bronchite", "history"),
        ("Pas d'antécédent de bronchite.", "bronchite", "negated"),
        ("Pas d'antécédent familial de bronchite.", "bronchite", "negated"),
        ("BRONCHITE : NON", "BRONCHITE", "negated"),
        ("bronchite compliquée sans fievre", "bronchite", "affirmed"),
        ("Nie toux, bronchite et fièvre.", "fièvre", "negated"),
        ("Nie toute toux, bronchite chronique connue depuis dix ans.", "bronchite", "affirmed"),
        ("N'a plus de bronchite.", "bronchite", "negated"),
        ("Plus de bronchite depuis hier.", "bronchite", "negated"),
        ("Plus de 3 jours de bronchite.", "bronchite", "affirmed"),
        ("Éliminées : bronchite, pleurésie.", "pleurésie", "negated"),
        ("Toux -, bronchite +", "Toux", "negated"),
        ("Toux -, bronchite +", "bronchite", "affirmed"),
        ("Peu probable bronchite.", "bronchite", "negated"),
        ("Aucun argument clinique pour une bronchite.", "bronchite", "negated"),
        ("Lymphome non hodgkinien.", "hodgkinien", "affirmed"),
        ("Patient non fébrile.", "fébrile", "negated"),
        ("Rupture du ligament croisé antérieur.", "ligament", "affirmed"),
        ("Bronchite antérieure.", "Bronchite", "history"),
    ],
)
def test_reads_a_french_cue_and_its_scope(sentence, words, expected):
    assert assertion(sentence, words, "fr") == expected


@pytest.mark.parametrize(
    ("sentence", "words", "expected"),
    [
        ("No rales, rhonchi, or wheezes.", "wheezes", "negated"),
        ("No rales but wheezes.", "wheezes", "affirmed"),
        ("Cannot rule out bronchitis.", "bronchitis", "hypothesis"),
        ("Bronchitis was ruled out.", "Bronchitis", "negated"),
        ("No family history of bronchitis.", "bronchitis", "negated"),
        ("Sister with bronchitis.", "bronchitis", "family"),
        ("History of bronchitis.", "bronchitis", "history"),
        ("Gram-negative bronchitis.", "bronchitis", "affirmed"),
        ("Nontraumatic subdural haemorrhage.", "subdural haemorrhage", "affirmed"),
        ("Noninfective gastroenteritis.", "Noninfective", "affirmed"),
        ("Non-Hodgkin lymphoma.", "lymphoma", "affirmed"),
        ("Abdomen soft, non-tender.", "tender", "negated"),
        ("Abdomen non tender but distended.", "tender", "negated"),
        ("Treated for non-Hodgkin lymphoma.", "Hodgkin", "affirmed"),
        ("No longer has bronchitis.", "bronchitis", "negated"),
        ("He is no longer feverish.", "feverish", "negated"),
        ("The mass is no longer seen.", "mass", "negated"),
        ("No rales or rhonchi, wheezes present.", "wheezes", "affirmed"),
        ("No rales, rhonchi or wheezes present.", "wheezes", "negated"),
        ("He has not had bronchitis.", "bronchitis", "negated"),
        ("Negative Homans sign, calf soft.", "Homans", "negated"),
        ("Unlikely bronchitis.", "bronchitis", "negated"),
    ],
)
def test_reads_an_english_cue_and_its_scope(sentence, words, expected):
    assert assertion(sentence, words, "en") == expected


@pytest.mark.parametrize(
    ("language", "sentence", "words"),
    [("es", "Paciente sin fiebre.", "fiebre"), ("de", "Kein Fieber.", "Fieber"), ("it", "Senza febbre.", "febbre")],
)
def test_reads_plain_negation_in_neighbouring_languages(language, sentence, words):
    assert assertion(sentence, words, language) == "negated"


def test_heading_speaks_for_words_that_the_sentence_only_names():
    assert assertion("Bronchite.", "Bronchite", "fr", default="history") == "history"
    assert assertion("Pas de bronchite.", "bronchite", "fr", default="history") == "negated"


def test_article_speaks_of_what_it_supposes():
    """An article on the risk of stroke is about stroke; one on patients without diabetes is not about diabetes."""
    assert assertion("Risk of stroke in adults without diabetes.", "stroke", "en", article=True) == "affirmed"
    assert assertion("Risk of stroke in adults without diabetes.", "diabetes", "en", article=True) == "negated"


def test_a_mention_is_affirmed_if_most_of_it_is():
    """Of the 16 characters of "fracture ouverte", 7 are in the span: less than half."""
    spans = asserted_spans("fracture ouverte", 9, 16, "fr", default="negated")
    assert assertion_of(spans, 0, 16) == "affirmed"
    assert assertion_of(spans, 9, 16) == "negated"


@pytest.mark.parametrize(("words", "language"), [("no ", "en"), ("a ? ", "fr"), ("il y a ", "fr")])
def test_time_for_a_sentence_grows_no_faster_than_the_sentence(words, language):
    """With its square, 100,000 characters would take minutes, and the test's time would run out."""
    sentence = words * (100_000 // len(words))
    asserted_spans(fold(sentence), 0, len(sentence), language)


def test_time_for_years_that_never_come_does_not_double_with_each_word():
    sentence = "il y a " + "une " * 200 + "toux"
    assert assertion(sentence, "toux", "fr") == "affirmed"


CLINICAL = st.lists(
    st.sampled_from(
        [
            "pas de",
            "sans",
            "ni",
            "suspicion de",
            "mère",
            "ATCD",
            ":",
            ",",
            ";",
            "mais",
            "toux",
            "?",
            "non",
            "(",
            ")",
            "et",
            "no",
        ]
    )
).map(" ".join)


@given(st.one_of(st.text(), CLINICAL), st.sampled_from(["fr", "en", "es", "und"]), st.sampled_from(sorted(PRECEDENCE)))
def test_spans_stay_in_their_sentence_in_order_without_overlap(text, language, default):
    folded = fold(text)
    assert len(folded) == len(text)
    start, end = len(text) // 3, len(text)
    at = start
    for span in asserted_spans(folded, start, end, language, default=default):
        assert at <= span.start < span.end <= end
        at = span.end
