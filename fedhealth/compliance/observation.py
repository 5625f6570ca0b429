"""Run a mechanism under audit and keep what it did.

What is **moved** is measured between two releases from the same streams, one with every canary and one with none:
their noise is the same, so their difference is exact. If it were not the same, the difference would be far too large.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedhealth.compliance.subjects import Subject, Vector
from fedhealth.learning.steps import Streams
from fedhealth.privacy.release import ReleaseIdentity, input_digest, noise_key
from fedhealth.privacy.stream import NoiseSecret

_PAIRS = 60
"""Pairs of releases from the same streams, where patients are sampled; else one pair says it all."""


@dataclass(frozen=True)
class Observation:
    """What was seen of a subject.

    Attributes:
        noise: releases without canaries, less what is known: shape (rounds, coordinates).
        coins: which canaries were in, all rounds after each other, shape (coins,).
        scores: how far the release lay in the canary's direction, shape (coins,).
        moved: what all canaries together changed, shape (pairs, coordinates).
    """

    noise: Vector
    coins: NDArray[np.bool_]
    scores: Vector
    moved: Vector


def observe(subject: Subject, secret: NoiseSecret, coins: np.random.Generator, more: float) -> Observation:
    """Run a subject.

    Args:
        subject: the mechanism.
        secret: opens its noise streams.
        coins: decides which canaries are in; knows nothing of the noise.
        more: how many times as many releases as the subject's short audit takes, above 0.
    """
    canaries, streams = len(subject.directions), _streams_of_releases(subject, secret)
    nobody, everybody = np.zeros(canaries, dtype=np.bool_), np.ones(canaries, dtype=np.bool_)
    noise = [subject.release(nobody, next(streams)) for _ in range(math.ceil(subject.noise_rounds * more))]
    tossed = [coins.random(canaries) < 0.5 for _ in range(math.ceil(subject.coin_rounds * more))]
    # Without a library of matrix products, which would start threads for it.
    scores = [np.einsum("ij,j->i", subject.directions, subject.release(each, next(streams))) for each in tossed]
    moved = []
    for _ in range(_PAIRS if subject.sampling_rate < 1 else 1):
        same = next(streams)
        moved.append(subject.release(everybody, same) - subject.release(nobody, same))
    return Observation(np.array(noise), np.concatenate(tossed), np.concatenate(scores), np.array(moved))


def _streams_of_releases(subject: Subject, secret: NoiseSecret) -> Iterator[Streams]:
    """Yield the streams of one release after another, keyed as the gate keys them."""
    number = 0
    while True:
        number += 1
        identity = ReleaseIdentity(
            site="audit",
            study=hashlib.sha256(subject.name.encode()).hexdigest(),
            step="train",
            round=number,
            input_digest=input_digest(b""),
        )
        yield partial(secret.stream, noise_key(identity.digest, "audit", "training"))
