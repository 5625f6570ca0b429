import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.search.language import UNKNOWN, detect


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("douleur thoracique", "fr"),
        ("chest pain", "en"),
        ("insuffisance cardiaque", "fr"),
        ("heart failure", "en"),
        ("sans fievre", "fr"),
        ("no fever", "en"),
        ("appendicite", "fr"),
        ("appendicitis", "en"),
        ("HYPERTENSION ARTERIELLE", "fr"),
        ("Le patient est admis pour une douleur du genou évoluant depuis trois mois.", "fr"),
        ("The patient was admitted with knee pain that began three months ago.", "en"),
        ("ohne Fieber und Husten seit drei Tagen", "de"),
        ("El paciente refiere dolor torácico de tres días de evolución, sin fiebre ni disnea asociada.", "es"),
        ("Il paziente presenta febbre e tosse da tre giorni", "it"),
        ("боль в груди", "ru"),
        ("胸痛", "zh"),
        ("I50.1", UNKNOWN),
        ("", UNKNOWN),
        ("\x00\x01 🙂 ...", UNKNOWN),
    ],
)
def test_tells_the_language_of_questions_and_reports(text, language):
    assert detect(text) == language


@given(st.text())
def test_any_text_has_an_answer(text):
    assert len(detect(text)) in {2, 3}
