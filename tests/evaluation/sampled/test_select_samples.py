"""Which of K samples is chosen, and what that is worth, on cases worked out by hand."""

from itertools import combinations

import pytest

from sicog.evaluation.sampled.select_samples import QuestionSamples, mbr_choice, score_at_k, vote_choice


def sampled(answers, right="two", **more):
    return QuestionSamples("q", tuple(answers), tuple(float(a == right) for a in answers), **more)


def test_the_majority_wins_and_of_equals_the_first():
    assert vote_choice(["three", "Two.", "2", None]) == 1
    assert vote_choice(["three", "two"]) == 0
    assert vote_choice([None, None]) is None


def test_the_least_risky_answer_shares_most_words_with_the_others():
    assert mbr_choice(["a red star", "red circle", "a small red circle", None]) == 1
    assert mbr_choice(["blue", "green"]) == 0
    assert mbr_choice([None]) is None


def test_pass_at_k_is_the_mean_over_all_subsets():
    scores = (0.0, 0.2, 1.0, 0.0, 0.7)
    one = QuestionSamples("q", tuple("abcde"), scores)
    for k in range(1, 6):
        subsets = list(combinations(scores, k))
        by_hand = sum(map(max, subsets)) / len(subsets)
        assert score_at_k("oracle", one, k, subsets=1, seed=0) == pytest.approx(by_hand)


def test_a_vote_of_fewer_is_a_mean_over_seeded_subsets():
    one = sampled(["two", "three", "two", "four", "two", "three"])
    values = [score_at_k("vote", one, 3, subsets=200, seed=seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    subsets = list(combinations(range(6), 3))
    exact = sum(one.scores[places[vote_choice([one.answers[i] for i in places])]] for places in subsets)
    assert values[0] == pytest.approx(exact / len(subsets), abs=0.1)
    assert score_at_k("vote", one, 6, subsets=1, seed=0) == 1.0
    for select in ("vote", "mbr", "oracle"):  # one sample is one sample, however it is chosen
        assert score_at_k(select, one, 1, subsets=1, seed=0) == 0.5
    with pytest.raises(ValueError, match="question q has 6 samples, so K must be from 1 to 6, got 7"):
        score_at_k("vote", one, 7, subsets=1, seed=0)
