"""The empirical audit passes what ships and names what is broken; faults are planted from outside."""

import dataclasses
import hashlib
import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from broken_mechanisms import (
    RepeatedNoise,
    claims_of_more_noise,
    clip_times_two,
    four_patients_in_five,
    half_the_noise_twice,
    noise_of_another_shape,
    noise_of_one_coordinate_times,
    noise_times,
    one_noise_for_two_coordinates,
    patched,
    the_same_patients,
)

from fedhealth.cli.main import main
from fedhealth.compliance.checks import check_subject
from fedhealth.compliance.empirical import FALSE_ALARM, audit_mechanisms
from fedhealth.compliance.observation import observe
from fedhealth.compliance.subjects import subjects
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.geometric import GeometricHistogram
from fedhealth.privacy.stream import SiteNoiseSecret
from fedhealth.training.per_patient import make_deterministic

TRAIN, SAMPLED, EVALUATE = "gate: train, full batch", "gate: train, half sampled", "gate: evaluate"
COUNTS, HISTOGRAM, SUM = "geometric histogram", "gaussian histogram", "bounded sum"
FINE_SUM, ENGINE = "bounded sum, fine noise", "training in one backward pass"


@pytest.fixture(autouse=True)
def _as_in_the_gate():
    """One thread: with several, small products take many times longer on a busy machine."""
    make_deterministic()


@pytest.fixture(scope="module")
def audit():
    make_deterministic()
    return audit_mechanisms(7)


def failed(name, seed, threshold, secret=None, more=1.0):
    subject = next(each for each in subjects() if each.name == name)
    secret = secret or SiteNoiseSecret(hashlib.sha256(f"test {seed}".encode()).digest())
    seen = observe(subject, secret, np.random.default_rng(seed), more)
    return {check.name for check in check_subject(subject, seen) if check.p_value < threshold}


def one_runs(audit):
    return {each.mechanism: next(c for c in each.checks if c.name == "one run") for each in audit.findings}


def test_what_ships_passes_and_shows_less_epsilon_than_it_is_charged(audit):
    assert audit.passed
    assert [finding.failed for finding in audit.findings] == [()] * 8
    for epsilon in one_runs(audit).values():
        assert 0 < epsilon.measured < epsilon.claimed
    assert audit.threshold == pytest.approx(FALSE_ALARM / sum(len(finding.checks) for finding in audit.findings))


def test_every_mechanism_that_ships_is_audited(audit):
    audited = [finding.mechanism for finding in audit.findings]
    assert audited == [TRAIN, SAMPLED, EVALUATE, ENGINE, COUNTS, HISTOGRAM, SUM, FINE_SUM]


def test_the_epsilon_that_is_charged_is_the_protocols(audit):
    """The audit's study asks for epsilon 2.5 at delta 1e-7 for training and for evaluation, one round each."""
    charged = one_runs(audit)
    for name in (TRAIN, EVALUATE):
        assert charged[name].claimed == pytest.approx(2.5, rel=1e-3)
        assert charged[name].claimed <= 2.5
    assert charged[SAMPLED].claimed < charged[TRAIN].claimed, "sampling costs less"
    assert charged[COUNTS].claimed == 1.5  # two cells of 0.75


# (fault, mechanism, checks that must fail)
FAULTS = [
    (lambda: noise_times(0.95), TRAIN, {"noise scale", "sensitivity"}),
    (lambda: noise_times(0.95), SAMPLED, {"noise scale", "sensitivity"}),
    (lambda: noise_times(0.95), EVALUATE, {"noise scale", "sensitivity"}),
    (lambda: noise_times(0.95), ENGINE, {"noise scale", "sensitivity"}),
    (lambda: noise_times(0.95), COUNTS, {"noise scale"}),
    (lambda: noise_times(0.95), HISTOGRAM, {"noise scale", "sensitivity"}),
    (lambda: noise_times(0.95), SUM, {"noise scale", "sensitivity"}),
    (lambda: noise_times(0.95), FINE_SUM, {"noise scale", "sensitivity"}),
    (lambda: noise_times(1.05), TRAIN, {"noise scale"}),
    (lambda: noise_times(1.05), COUNTS, {"noise scale"}),
    (lambda: noise_times(0.1), SAMPLED, {"one run"}),
    (lambda: noise_times(0.2), EVALUATE, {"one run"}),
    (lambda: noise_times(0.2), SUM, {"one run"}),
    (lambda: noise_times(0.5), COUNTS, {"one run", "neighbouring counts"}),
    (clip_times_two, TRAIN, {"sensitivity", "canary"}),
    (clip_times_two, SAMPLED, {"sensitivity", "canary"}),
    (clip_times_two, EVALUATE, {"sensitivity", "canary"}),
    (clip_times_two, ENGINE, {"sensitivity", "canary"}),
    (clip_times_two, COUNTS, {"sensitivity"}),
    (clip_times_two, HISTOGRAM, {"sensitivity", "canary"}),
    (clip_times_two, SUM, {"sensitivity", "canary"}),
    (clip_times_two, FINE_SUM, {"sensitivity", "canary"}),
    (claims_of_more_noise, TRAIN, {"sensitivity"}),
    (claims_of_more_noise, COUNTS, {"noise scale"}),
    (noise_of_another_shape, TRAIN, {"noise shape"}),
    (noise_of_another_shape, COUNTS, {"noise shape"}),
    (half_the_noise_twice, TRAIN, {"autocorrelation"}),
    (half_the_noise_twice, COUNTS, {"autocorrelation"}),
    *(
        (lambda: noise_of_one_coordinate_times(0.0), mechanism, {"weakest coordinate"})
        for mechanism in (TRAIN, SAMPLED, EVALUATE, ENGINE, COUNTS, HISTOGRAM, SUM, FINE_SUM)
    ),
    (lambda: noise_of_one_coordinate_times(0.5), TRAIN, {"weakest coordinate"}),
    (lambda: noise_of_one_coordinate_times(0.5), COUNTS, {"weakest coordinate"}),
    *(
        (one_noise_for_two_coordinates, mechanism, {"shared noise"})
        for mechanism in (TRAIN, SAMPLED, EVALUATE, ENGINE, COUNTS, HISTOGRAM, SUM, FINE_SUM)
    ),
    (four_patients_in_five, SAMPLED, {"sampling rate"}),
    (the_same_patients, SAMPLED, {"repeated draw"}),
]


@pytest.mark.parametrize(
    ("fault", "mechanism", "checks"), FAULTS, ids=[f"{number}, {case[1]}" for number, case in enumerate(FAULTS)]
)
def test_a_fault_is_found_by_the_check_that_looks_for_it(audit, fault, mechanism, checks):
    subtle = (
        checks & {"noise scale", "weakest coordinate", "shared noise", "canary", "one run"}
        or fault is claims_of_more_noise
    )
    with fault():
        assert checks <= failed(mechanism, 1, audit.threshold, more=1.0 if subtle else 0.2)


@pytest.mark.parametrize("mechanism", [TRAIN, COUNTS, SUM])
def test_the_planting_itself_is_not_what_is_found(audit, mechanism):
    with noise_times(1.0) if mechanism != COUNTS else nullcontext():
        assert failed(mechanism, 2, audit.threshold) == set()


@pytest.mark.parametrize("mechanism", [TRAIN, SAMPLED, ENGINE, COUNTS, HISTOGRAM, SUM, FINE_SUM])
def test_noise_that_comes_twice_is_found(audit, mechanism):
    secret = RepeatedNoise(SiteNoiseSecret(bytes(32)))
    assert {"repeated noise", "autocorrelation"} <= failed(mechanism, 3, audit.threshold, secret, more=0.5)


def test_no_noise_at_all_is_found_and_breaks_nothing(audit):
    def no_noise(self, total, stream):
        return total

    with patched((GridGaussian, "add_noise", no_noise), (GeometricHistogram, "add_noise", no_noise)):
        assert {"noise scale", "sensitivity", "canary", "one run"} <= failed(SUM, 8, audit.threshold)
        assert {"noise scale", "neighbouring counts", "one run"} <= failed(COUNTS, 8, audit.threshold)


def test_noise_that_comes_again_once_much_later_is_found(audit):
    class Once:
        def __init__(self):
            self.true, self.keys = SiteNoiseSecret(bytes(32)), []

        def stream(self, noise_key, purpose):
            self.keys.append(noise_key)
            return self.true.stream(self.keys[0] if len(self.keys) == 300 else noise_key, purpose)

    assert "repeated noise" in failed(TRAIN, 4, audit.threshold, Once())


def test_a_bound_on_records_in_place_of_patients_is_found(audit):
    """Canaries have two records each; a clip of each record alone lets a patient count twice."""
    whole = GridGaussian.fine_sum

    def by_record(self, vectors):
        total, zeroed = whole(self, np.repeat(vectors, 2, axis=0))
        return total, zeroed

    with patch.object(GridGaussian, "fine_sum", by_record):
        assert "sensitivity" in failed(TRAIN, 5, audit.threshold, more=0.2)


def test_a_smaller_mistake_is_found_by_looking_longer(audit):
    """1.5 % less noise: four standard deviations of a short audit's estimate, which is about where it begins to see.

    Eight times as much noise makes that twelve.
    """
    with noise_times(0.985):
        assert "noise scale" in failed(SUM, 6, audit.threshold, more=8.0)


def test_more_seconds_are_more_releases():
    subject = replace(subjects()[-2], noise_rounds=10, coin_rounds=2)
    secret = SiteNoiseSecret(bytes(32))
    seen = observe(subject, secret, np.random.default_rng(1), 2.5)
    assert (len(seen.noise), len(seen.coins)) == (25, 5 * 64)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedhealth", "audit", "empirical", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_the_command_says_what_the_library_found_and_can_be_repeated(audit, monkeypatch, capsys):
    code, said, errors = run(monkeypatch, capsys, "--seed", "7", "--json")
    assert (code, errors) == (0, "")
    assert json.loads(said) == json.loads(json.dumps(dataclasses.asdict(audit)))


def test_a_failed_audit_ends_with_12_and_names_mechanism_and_check_within_80_columns(monkeypatch, capsys):
    with noise_times(0.85), patch("fedhealth.compliance.empirical.subjects", lambda: subjects()[:1]):
        code, said, errors = run(monkeypatch, capsys)
    assert code == 12
    assert "FAILED: a mechanism does not do what it claims" in errors
    assert max(map(len, said.splitlines())) <= 80
    assert f"\n{TRAIN}\n" in said
    assert "noise scale          FAILED   0.8" in said  # 0.85, give or take 0.003
    assert "--seed " in said
