"""Concepts in text: the terms that are found, what their codes are named, and what is above and below them.

Codes are those of ICD-10 (WHO 2019) and ATC (2024), looked up there and not taken from a run.
"""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from fedhealth.search.concepts import Terminology
from fedhealth.search.terminology import FILE_NAME, compile_terms


def concepts(terminology, text, language, asked=False):
    return {
        text[each.start : each.end]: each.concept for each in terminology.find_mentions(text, language, asked=asked)
    }


FOUND = {
    "a label of CIM-10": (
        "Insuffisance cardiaque congestive.",
        "fr",
        {"Insuffisance cardiaque congestive": "icd10:I50.0"},
    ),
    "a label without what it leaves unstated": ("bronchopneumopathie", "fr", {"bronchopneumopathie": "icd10:J18.0"}),
    "a label of ICD-10": ("Type 2 diabetes mellitus.", "en", {"Type 2 diabetes mellitus": "icd10:E11"}),
    "no accents": ("une gastrite, une pyelonephrite", "fr", {"gastrite": "icd10:K29", "pyelonephrite": "icd10:N10"}),
    "plurals": ("des pneumonies", "fr", {"pneumonies": "icd10:J18"}),
    "another order and function words": (
        "a fracture of the neck of the femur",
        "en",
        {"fracture of the neck of the femur": "icd10:S72.0"},
    ),
    "American for British": ("heart block, anemia", "en", {"heart block": "icd10:I44", "anemia": "icd10:D64.9"}),
    "the longest of overlapping terms": ("insuffisance rénale aiguë", "fr", {"insuffisance rénale aiguë": "icd10:N17"}),
    "a brand": ("sous Doliprane", "fr", {"Doliprane": "atc:N02BE01"}),
    "a drug's name in English": ("on metformin", "en", {"metformin": "atc:A10BA02"}),
    "an abbreviation in capitals": ("atcd : HTA", "fr", {"HTA": "icd10:I10"}),
    "no abbreviation in small letters": ("the patient used hearing aids", "en", {}),
    "no abbreviation of two letters": ("SpO2 97 % on RA", "en", {}),
    "no term across the end of a sentence": ("Il tousse. Douleur. Thoracique droit", "fr", {"Douleur": "icd10:R52"}),
    "no brand that is a word in small letters": ("one daily, lymph node", "en", {}),
    "a concept that no classification has": ("troponine négative", "fr", {"troponine": "word:troponin"}),
    "nothing": (" \n\x00…", "fr", {}),
}


@pytest.mark.parametrize(("text", "language", "expected"), FOUND.values(), ids=FOUND)
def test_finds_terms_in_text(terminology, text, language, expected):
    found = concepts(terminology, text, language)
    assert {words: found.get(words) for words in expected} == expected
    assert expected or not found


def test_an_abbreviation_that_is_asked_for_counts_in_small_letters(terminology):
    assert concepts(terminology, "idm", "fr", asked=True) == {"idm": "icd10:I21"}
    assert concepts(terminology, "MI", "en", asked=True) == {"MI": "icd10:I21"}
    assert concepts(terminology, "mi", "en", asked=True) == {}


def test_a_text_of_another_language_is_read_for_terms_of_both(terminology):
    assert set(concepts(terminology, "pneumonia oder pneumonie", "de").values()) == {"icd10:J18"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("pneumonei", "pneumonie"),
        ("myocrade", "myocarde"),
        ("hypertention", "hypertension"),
        ("troponne", "troponine"),
        ("Ambolie", "embolie"),
        ("pneumonies", None),
        ("xyzzyxyzzy", None),
        ("toux", None),
        ("a2041", None),
    ],
)
def test_knows_what_word_of_a_term_is_meant(terminology, written, meant):
    assert terminology.spelling(written) == meant


def test_finds_a_term_whatever_of_its_words_is_hyphenated_or_joined(terminology):
    assert concepts(terminology, "COVID19", "fr") == {"COVID19": concepts(terminology, "COVID-19", "fr")["COVID-19"]}


def test_names_a_concept_in_both_languages(terminology):
    assert terminology.name("icd10:I50.0", "fr") == "Insuffisance cardiaque congestive"
    assert terminology.name("icd10:I50.0", "en") == "Congestive heart failure"
    assert terminology.name("icd10:I21.00", "en").startswith("Infarctus"), (
        "France's own subdivision has no English name"
    )
    assert terminology.name("icd10:Z00.Z9", "en") is None


def test_walks_the_hierarchy_up_and_down(terminology):
    assert terminology.ancestors("icd10:I21.00") == ("icd10:I21.0", "icd10:I21")
    below = terminology.descendants("icd10:I50")
    assert {"icd10:I50.0", "icd10:I50.1", "icd10:I50.9"} <= set(below)
    assert not [each for each in below if not each.startswith("icd10:I50.")]
    assert terminology.ancestors("atc:N04BA02") == ("atc:N04BA", "atc:N04B", "atc:N04", "atc:N")
    assert terminology.knows("atc:N04BA"), "a group without a name in our sources"
    assert not terminology.knows("atc:N04BZ")


def test_12_227_concepts_have_a_name_in_both_languages(terminology):
    # The number of codes that both sources have, counted from their files.
    assert len(terminology.named_in_both("icd10")) == 12_227


def test_a_compiled_file_is_kept_and_one_of_another_version_is_made_anew(tmp_path, terminology_folder, terminology):
    path = shutil.copy(compile_terms(terminology_folder), tmp_path / FILE_NAME)
    left = tmp_path / f"{FILE_NAME}abc"  # by a process that was killed an hour ago and more
    left.touch()
    os.utime(left, (0, 0))
    before = path.stat().st_ino
    assert compile_terms(tmp_path).stat().st_ino == before
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE about SET versions = 'older'")
    assert Terminology.load(tmp_path).name("icd10:I10", "en") == terminology.name("icd10:I10", "en")
    assert path.stat().st_ino != before
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]


def test_a_file_that_is_no_terminology_is_made_anew(tmp_path, monkeypatch):
    (tmp_path / FILE_NAME).write_bytes(b"cut off")
    monkeypatch.setattr("fedhealth.search.terminology._names", lambda: iter(()))  # our own terms alone: much faster
    assert Terminology.load(tmp_path).terms("word:troponin", "en")[0] == "troponin"


def test_translates_words_of_medicine_both_ways(terminology):
    assert terminology.translations("hanch", "fr")[0].other == "hip"
    assert "kidney" in {each.other for each in terminology.translations("rein", "fr")}
    assert terminology.translations("hip", "en")[0].other == "hanche"
    assert terminology.translations("xyzzy", "fr") == ()
    assert "à" not in {each.other for each in terminology.translations("glaucoma", "en")}  # "glaucome à angle ouvert"


def test_a_withheld_concept_is_not_known_and_teaches_nothing(tmp_path, monkeypatch):
    names = {
        "icd10:I10": [("fr", "Hypertension essentielle"), ("en", "Essential hypertension")],
        "icd10:K35": [("fr", "Boubou aigu"), ("en", "Acute bobo")],
    }
    monkeypatch.setattr("fedhealth.search.terminology._names", lambda: iter(names.items()))
    known, less = (Terminology.load(tmp_path, withheld) for withheld in (frozenset(), frozenset({"icd10:K35"})))
    assert known.find_mentions("boubou aigu", "fr")[0].concept == "icd10:K35"
    assert known.translations("boubou", "fr") != ()
    assert less.find_mentions("boubou aigu", "fr") == ()
    assert less.translations("boubou", "fr") == ()
    assert less.find_mentions("appendicite", "fr") == (), "our own terms of a withheld concept are withheld too"
