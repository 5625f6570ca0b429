import heapq
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedhealth.privacy import geometric
from fedhealth.privacy.events import GeometricEvent
from fedhealth.privacy.geometric import GeometricHistogram, _Coins, two_sided_geometric
from fedhealth.privacy.stream import SiteNoiseSecret

SECRET = SiteNoiseSecret(bytes(range(32)))


class MoreNeededError(Exception):
    def __init__(self, choices):
        self.choices = choices


class StartsAgainError(Exception):
    pass


class ScriptedCoins:
    """Coins that say what they are told to, remember what they were asked, and ask back when that is not enough."""

    def __init__(self, script):
        self.script, self.limits = list(script), []

    def choose(self, choices):
        if not self.script:
            raise MoreNeededError(choices)
        return self.script.pop(0)

    def below(self, limit):
        self.limits.append(limit)
        return self.choose([(said, 1 / limit) for said in range(limit)])


@pytest.mark.parametrize("numerator, denominator", [(1, 1), (1, 2), (3, 7), (0, 5)])
def test_survival_is_an_even_run_of_comparisons_and_so_the_exponential_series(numerator, denominator):
    # The k-th comparison is won with probability x / k, x = numerator / denominator. So a run of exactly K wins has
    # the probability x**K / K! - x**(K+1) / (K+1)!, and the even runs sum to 1 - x + x**2 / 2! - ... = exp(-x).
    for wins in range(8 if numerator else 1):
        coins = ScriptedCoins([0] * wins + [numerator])
        assert geometric._survives(numerator, denominator, coins) == (wins % 2 == 0)
        assert coins.limits == [denominator * k for k in range(1, wins + 2)]


@pytest.mark.parametrize("numerator, denominator", [(1, 1), (1, 2), (3, 2), (5, 4), (1, 8)])
def test_the_sampler_is_exact_by_going_through_all_its_choices(numerator, denominator, monkeypatch):
    class OneTry(ScriptedCoins):
        """Stops at the second try, which is the first once more: the law is that of a first try that ends."""

        survivals = 0

        def below(self, limit):
            if len(self.limits) == 2:  # after the rest and the sign
                raise StartsAgainError
            return super().below(limit)

    def survives(numerator, denominator, coins):
        yes = math.exp(-numerator / denominator)
        said = coins.choose([(True, yes), (False, 1 - yes)])
        coins.survivals += 1
        if coins.survivals == 1 and not said:  # the rest is rejected
            raise StartsAgainError
        return said

    monkeypatch.setattr(geometric, "_survives", survives)
    ended, again, left = {}, 0.0, [(-1.0, ())]
    while left[0][0] < -1e-9:  # likeliest choices first
        weight, script = heapq.heappop(left)
        try:
            noise = geometric._sample(Fraction(numerator, denominator), OneTry(script))
            ended[noise] = ended.get(noise, 0.0) - weight
        except StartsAgainError:
            again -= weight
        except MoreNeededError as more:
            for said, chance in more.choices:
                heapq.heappush(left, (weight * chance, (*script, said)))
    ends, p = sum(ended.values()), math.exp(-numerator / denominator)
    assert ends + again == pytest.approx(1, abs=1e-6)
    for noise in range(-30, 31):
        exact = (1 - p) / (1 + p) * p ** abs(noise)
        assert ended.get(noise, 0.0) / ends == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 0.05, 2.5, 1 / 3])
def test_noise_is_two_sided_geometric_in_a_chi_square(epsilon):
    size = 200_000
    samples = np.array(two_sided_geometric(size, epsilon, SECRET.stream("0" * 64, "counts")))
    p = math.exp(-epsilon)
    reach = max(1, int(math.log(size * (1 - p) / 50) / epsilon))  # expected counts of 25 and more, tails beside
    inner = np.arange(-reach, reach + 1)
    tail = p ** (reach + 1) / (1 + p)
    expected = size * np.concatenate([[tail], (1 - p) / (1 + p) * p ** np.abs(inner), [tail]])
    observed = np.concatenate(
        [[(samples < -reach).sum()], [(samples == k).sum() for k in inner], [(samples > reach).sum()]]
    )
    assert scipy.stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def test_neighbouring_samples_are_independent():
    samples = np.array(two_sided_geometric(100_000, 0.2, SECRET.stream("1" * 64, "counts")))
    assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 0.016  # five standard deviations


@settings(max_examples=30)
@given(st.integers(1, 2**130))
def test_coins_stay_below_their_limit_and_reach_both_halves(limit):
    coins = _Coins(SECRET.stream("2" * 64, str(limit)))
    said = [coins.below(limit) for _ in range(64)]
    assert all(0 <= each < limit for each in said)
    if limit > 1:
        assert min(said) < limit / 2 <= max(said) + (limit == 1)


class Words:
    def __init__(self, words):
        self._words = words

    def words(self, count):
        said, self._words = self._words[:count], self._words[count:]
        return np.array([*said, *[0] * (count - len(said))], dtype=np.uint64)


@pytest.mark.parametrize(
    "limit, words, expected",
    [
        (1, [], 0),  # no bits needed
        (2, [1 << 63], 1),
        (3, [3 << 62, 2 << 62], 2),  # 3 is not below 3: the next word decides
        (2**64, [2**64 - 1], 2**64 - 1),
        (2**64 + 1, [0, 5 << 63 & (2**64 - 1)], 1),  # 65 bits: the second word's first bit is the last
    ],
)
def test_coins_read_the_leading_bits_and_reject_what_is_too_large(limit, words, expected):
    assert _Coins(Words(words)).below(limit) == expected


def test_the_same_stream_draws_the_same_noise_and_another_release_another():
    def drawn(release, purpose="counts"):
        return tuple(two_sided_geometric(50, 0.1, SECRET.stream(release, purpose)))

    assert drawn("0" * 64) == drawn("0" * 64)
    assert len({drawn("0" * 64), drawn("1" * 64), drawn("0" * 64, "histogram")}) == 3


@settings(deadline=None)
@given(st.data())
def test_one_patient_changes_at_most_so_many_counts_by_one(data):
    cells, patients = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    bound = data.draw(st.integers(1, cells))
    mechanism = GeometricHistogram(0.5, cells, bound)
    rows = data.draw(arrays.arrays(np.bool_, (patients, cells)))
    counts = mechanism.bound_and_count(rows)
    for patient in range(patients):
        change = counts - mechanism.bound_and_count(np.delete(rows, patient, axis=0))
        assert set(change.tolist()) <= {0, 1}
        assert change.sum() == min(bound, rows[patient].sum()) <= mechanism.event.cells


def test_counts_by_hand():
    rows = np.array([[True, True, False], [False, True, True], [False, False, False]])
    assert GeometricHistogram(1.0, 3, 3).bound_and_count(rows).tolist() == [1, 2, 1]
    assert GeometricHistogram(1.0, 3, 1).bound_and_count(rows).tolist() == [1, 1, 0]
    assert GeometricHistogram(1.0, 3, 1).bound_and_count(rows[:0]).tolist() == [0, 0, 0]


def test_a_release_is_the_counts_plus_the_streams_noise_and_may_be_negative():
    mechanism = GeometricHistogram(0.05, 40)
    noise = mechanism.add_noise(np.zeros(40, dtype=np.int64), SECRET.stream("a", "b"))
    assert (noise < 0).any()
    counts = np.arange(40)
    assert (mechanism.add_noise(counts, SECRET.stream("a", "b")) == counts + noise).all()


def test_the_event_and_the_width_follow_from_the_mechanism():
    assert GeometricHistogram(0.5, 10, 3).event == GeometricEvent(epsilon=0.5, cells=3)
    # p = 1/2: the variance is 2 p / (1 - p)**2 = 4.
    assert GeometricHistogram(math.log(2)).standard_deviation == pytest.approx(2.0, rel=1e-12)
    samples = two_sided_geometric(100_000, math.log(2), SECRET.stream("3" * 64, "width"))
    assert np.std(samples) == pytest.approx(2.0, rel=0.03)


@pytest.mark.parametrize(
    "arguments",
    [(0.0,), (-1.0,), (math.nan,), (math.inf,), (5e-324,), (17.0,), (1.0, 0), (1.0, 2**21), (1.0, 3, 0), (1.0, 3, 4)],
)
def test_a_mechanism_without_a_proof_does_not_exist(arguments):
    with pytest.raises(ValueError):
        GeometricHistogram(*arguments)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_drawn_for_an_epsilon_that_is_none(epsilon):
    with pytest.raises(ValueError):
        two_sided_geometric(1, epsilon, SECRET.stream("a", "b"))


@pytest.mark.parametrize("rows", [np.zeros(3, dtype=bool), np.zeros((2, 4), dtype=bool), np.zeros((2, 3))])
def test_rows_of_another_shape_or_type_are_refused(rows):
    with pytest.raises(ValueError):
        GeometricHistogram(1.0, 3).bound_and_count(rows)


def test_counts_of_another_shape_get_no_noise():
    with pytest.raises(ValueError):
        GeometricHistogram(1.0, 3).add_noise(np.zeros(2, dtype=np.int64), SECRET.stream("a", "b"))
