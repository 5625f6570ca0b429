"""How long the replies of a study take: a public duration, measured once at approval on made-up records.

No patient's record is at hand here: the records are as many as the public figures allow, so that nobody's decide it.
"""

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from fedhealth.learning.plan import Step, plan_study
from fedhealth.privacy.anchor import AnchorFile
from fedhealth.privacy.release import StepName
from fedhealth.privacy.stream import SECRET_BYTES, KeyedStream, SiteNoiseSecret
from fedhealth.records.table import Records, made_up_records
from fedhealth.search.coded_patients import made_up_patients
from fedhealth.search.counting import CountStep, count
from fedhealth.secret_file import replace_file
from fedhealth.site.gate_inputs import Compute
from fedhealth.site.state import SiteState
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy

REPLY_MARGIN = 1.25
"""Public duration of a reply over the slowest of the trials."""

_TRIALS = 15
_SHORTEST_REPLY_MS = 20


def measure_replies(
    study: Study | SearchStudy, declared_patients: int, compute: Compute, state: SiteState
) -> dict[StepName, int]:
    """Return the public duration of each step's reply, in ms, from made-up records of the declared size.

    Includes what it takes to make a payload durable on this disk, and to move the ledger's anchor after it.
    """
    scratch, place = state.gate / "calibration.tmp", state.gate / "calibration.anchor"
    anchor = AnchorFile(place)
    anchor.create(1, "0" * 64, 0, 0)
    durations: dict[StepName, int] = {}
    for name, compute_once in _trials_of(study, declared_patients, compute).items():
        trials = []
        for _ in range(_TRIALS):
            start = time.perf_counter()
            replace_file(scratch, compute_once())
            anchor.move(1, "0" * 64, 0, 0)
            trials.append(time.perf_counter() - start)
        slowest = sorted(trials[1:])[-2] * 1000  # the first warms up; one outlier is the machine's
        durations[name] = max(_SHORTEST_REPLY_MS, math.ceil(REPLY_MARGIN * slowest / 5) * 5)
    scratch.unlink()
    place.unlink()
    return durations


def _trials_of(
    study: Study | SearchStudy, declared_patients: int, compute: Compute
) -> dict[StepName, Callable[[], bytes]]:
    """Return for each step what computes a payload of it on made-up records."""
    streams = partial(SiteNoiseSecret(secrets.token_bytes(SECRET_BYTES)).stream, "calibration")
    if isinstance(study, SearchStudy):
        patients, query = made_up_patients(declared_patients, study.counts.most_codes_of_a_patient)
        return {"count": lambda: count(CountStep(study), query, patients, streams("noise"))}
    records = made_up_records(study, declared_patients)
    return {
        name: partial(_trial, step, declared_patients, records, streams, compute)
        for name, step in plan_study(study).items()
    }


def _trial(
    step: Step, declared_patients: int, records: Records, streams: Callable[[str], KeyedStream], compute: Compute
) -> bytes:
    # Six standard deviations more patients than are drawn on average, so that no draw makes a reply late.
    rate = min(1.0, step.sampling_rate + 6 * math.sqrt(step.sampling_rate / declared_patients))
    drawn = replace(step, sampling_rate=rate)
    payload, _ = compute[step.name](drawn, np.zeros(step.input_length), records, streams)
    return payload
