"""A document that exists is well formed, and a refusal never shows what the document holds."""

from datetime import date

import pytest

from fedhealth.errors import DataUnusable
from fedhealth.search.documents import AssertedSpan, Code, Document, DocumentFilter, Mention, Passage, Section

LETTER = {"key": "k-1", "patient": "p-1", "kind": "letter", "title": "Courrier", "text": "Épanchement pleural."}


def test_keeps_what_a_source_states():
    document = Document(**LETTER, date=date(2024, 2, 29), language="fr", age=71, sex="female", codes=(CODE,))
    assert (document.patient, document.codes[0].value) == ("p-1", "I50.1")


CODE = Code("icd10", "I50.1")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"key": ""}, "key"),
        ({"patient": None}, "patient"),
        ({"patient": ""}, "patient"),
        ({"kind": "article"}, "patient of an article"),
        ({"kind": "picture"}, "kind"),
        ({"title": "t" * 1001}, "title"),
        ({"text": "secret" * 1_000_000}, "text"),
        ({"text": "secret \0"}, "text"),
        ({"text": "secret \udc80"}, "text"),
        ({"language": "de"}, "language"),
        ({"sex": "secret"}, "sex"),
        ({"age": -1}, "age"),
        ({"age": 131}, "age"),
    ],
)
def test_refuses_a_document_naming_the_field_and_not_its_content(changed, named):
    with pytest.raises(DataUnusable, match=named) as refusal:
        Document(**{**LETTER, **changed})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("system", "value", "well_formed"),
    [
        ("icd10", "I50.1", True),
        ("icd10", "I50", True),
        ("icd10", "C7A.00", True),
        ("icd10", "i50.1", False),
        ("icd10", "I501", False),
        ("icd10", "I20-I25", False),
        ("atc", "N04BA02", True),
        ("atc", "N", True),
        ("atc", "N04", True),
        ("atc", "N4", False),
        ("loinc", "I50", False),
    ],
)
def test_a_code_has_the_form_of_its_system(system, value, well_formed):
    if well_formed:
        assert Code(system, value).value == value
    else:
        with pytest.raises(DataUnusable):
            Code(system, value)


@pytest.mark.parametrize(
    "spans",
    [
        ((4, 4, "negated"),),
        ((0, 6, "negated"),),
        ((5, 30, "negated"),),
        ((8, 10, "negated"), (5, 7, "family")),
        ((5, 9, "negated"), (8, 12, "family")),
        ((5, 9, "perhaps"),),
    ],
    ids=["empty", "before the passage", "behind the passage", "out of order", "overlapping", "no assertion"],
)
def test_spans_lie_in_their_passage_in_order(spans):
    Passage("k-1", 0, "", 5, 20, "x" * 15, (AssertedSpan(5, 8, "negated"), AssertedSpan(8, 20, "history")))
    with pytest.raises(DataUnusable):
        Passage("k-1", 0, "", 5, 20, "x" * 15, tuple(AssertedSpan(*span) for span in spans))


@pytest.mark.parametrize(
    "made",
    [
        lambda: Passage("k-1", 0, "", 5, 20, "too short"),
        lambda: Passage("k-1", 0, "", 5, 4, ""),
        lambda: Section("Antécédents", -1, 4),
        lambda: Mention(9, 4, CODE, "heart failure", "affirmed"),
        lambda: Mention(4, 9, CODE, "heart failure", "certain"),
        lambda: DocumentFilter(kinds=frozenset({"picture"})),
        lambda: DocumentFilter(youngest=60, oldest=50),
        lambda: DocumentFilter(since=date(2024, 1, 2), until=date(2024, 1, 1)),
        lambda: DocumentFilter(sex="other"),
    ],
)
def test_refuses_offsets_and_filters_that_cannot_be(made):
    with pytest.raises(DataUnusable):
        made()


def test_an_empty_filter_keeps_every_document():
    assert DocumentFilter().keeps_all()
    assert not DocumentFilter(sex="male").keeps_all()
