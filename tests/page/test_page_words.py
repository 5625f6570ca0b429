"""The page's words: both languages say all of it, with the same places to fill."""

import re
import string
from pathlib import Path

import pytest

import fedhealth.page
from fedhealth.errors import RefusalCode
from fedhealth.page.words import reason_in, words_in

FOLDER = Path(fedhealth.page.__file__).parent


def places(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_both_languages_say_everything_with_the_same_places():
    english, french = words_in("en"), words_in("fr")
    assert {name for name in english if places(english[name]) != places(french[name])} == set()
    assert all(english.values()) and all(french.values())


def test_every_word_that_the_page_uses_is_there_and_none_is_left_over():
    sources = "".join(path.read_text() for path in [*FOLDER.glob("*.py"), *FOLDER.glob("templates/*.jinja")])
    sources = sources.replace((FOLDER / "words.py").read_text(), "")
    used = set(re.findall(r"words\.(\w+)", sources)) - {"items", "words"}
    assert used <= set(words_in("en"))
    # Names that are put together or handed on, such as "kind_letter", are in quotes somewhere, in whole or in part.
    quoted = set(re.findall(r'"(\w[\w-]*)"', sources)) | {"since", "until"}
    begun = ("kind_", "assertion_", "absent_", "part_")
    assert {name for name in words_in("en") if name not in used | quoted and not name.startswith(begun)} == set()


def test_every_code_that_a_hospital_may_answer_with_has_words():
    assert {f"absent_{code}" for code in [*RefusalCode, "away"]} <= set(words_in("fr"))


@pytest.mark.parametrize(
    ("reason", "french"),
    [
        ("has: fièvre", "contient\u00a0: fièvre"),
        ("has (negated): fièvre", "contient (nié): fièvre"),
        (
            "none of the words, but similar in meaning (0.87 of 1)",
            "aucun des mots, mais proche par le sens (0.87 sur 1)",
        ),
        ("its source states I10 Hypertension", "sa source indique I10 Hypertension"),
        ("something new", "something new"),
    ],
)
def test_a_reason_is_told_in_french(reason, french):
    assert (reason_in("fr", reason), reason_in("en", reason)) == (french, reason)
