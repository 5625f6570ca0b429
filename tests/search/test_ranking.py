"""The order of documents from what speaks for their passages; figures worked by hand beside each."""

import pytest

from fedhealth.search.ranking import EXACT_BONUS, SIMILARITY_WEIGHT, Evidence, rank


def order(evidence, floor=0.7):
    return [(each.document, each.passage, pytest.approx(each.score)) for each in rank(evidence, floor)]


def test_words_and_similarity_are_added_each_in_its_own_range():
    evidence = {1: Evidence(10, 8.0, 0.75), 2: Evidence(20, 2.0, 0.90)}
    # Document 10: 8/8 + (0.75 - 0.70)/(0.90 - 0.70) = 1.25; document 20: 2/8 + 1 = 1.25 with weight 1, a tie.
    assert SIMILARITY_WEIGHT == 1.0
    assert order(evidence) == [(10, 1, 1.25), (20, 2, 1.25)]


def test_a_document_has_the_best_of_its_passages_in_each():
    evidence = {1: Evidence(10, 8.0, 0.70), 2: Evidence(10, 4.0, 0.90), 3: Evidence(20, 6.0, 0.80)}
    # Document 10: 8/8 and (0.90 - 0.70)/0.20; its best passage is 2 with 0.5 + 1.0 = 1.5, before 1 with 1.0 + 0.0.
    # Document 20: 6/8 + 0.5 = 1.25.
    assert order(evidence) == [(10, 2, 2.0), (20, 3, 1.25)]


def test_what_has_the_code_comes_before_all_that_is_similar():
    evidence = {1: Evidence(10, 0.5, None, is_exact=True), 2: Evidence(20, 9.0, 0.99)}
    assert [each.document for each in rank(evidence, 0.7)] == [10, 20]
    assert EXACT_BONUS > 1.0 + SIMILARITY_WEIGHT


def test_a_passage_that_denies_half_of_what_is_asked_is_half_as_similar():
    evidence = {1: Evidence(10, 0.0, 0.9, affirmed=0.5), 2: Evidence(20, 0.0, 0.85)}
    # (0.9 - 0.7)/0.2 * 0.5 = 0.5; (0.85 - 0.7)/0.2 = 0.75.
    assert order(evidence) == [(20, 2, 0.75), (10, 1, 0.5)]


def test_cosines_that_hardly_differ_say_little():
    # Spread 0.014 counts as 0.07: (0.804 - 0.79)/0.07 = 0.2, less than words that are half of the best.
    evidence = {1: Evidence(10, 1.0, 0.79), 2: Evidence(20, 0.0, 0.804), 3: Evidence(30, 0.5, None)}
    assert order(evidence, floor=0.79) == [(10, 1, 1.0), (30, 3, 0.5), (20, 2, 0.2)]


def test_one_word_of_many_is_less_than_a_meaning():
    evidence = {1: Evidence(10, 2.0, 0.7), 2: Evidence(20, 0.0, 0.9)}
    assert order(evidence) == [(10, 1, 1.0), (20, 2, 1.0)]
    # All words would score 8, of which three quarters are 6: 2/6; (0.9 - 0.7)/0.2 = 1.
    assert [(each.document, each.score) for each in rank(evidence, 0.7, 8.0)] == [
        (20, pytest.approx(1.0)),
        (10, pytest.approx(1 / 3)),
    ]


def test_nothing_speaks_for_nothing():
    assert rank({}, 0.0) == []
    assert rank({1: Evidence(10, 0.0, 0.5)}, 0.7) == []
