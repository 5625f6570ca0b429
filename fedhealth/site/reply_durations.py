"""How long the replies of a study take: a public duration, measured once at approval on made-up records.

No patient's record is at hand here: the records are as many as the public figures allow, so that nobody's decide it.
"""

import math
import secrets
import time
from dataclasses import replace
from functools import partial

import numpy as np

from fedhealth.learning.plan import plan_study
from fedhealth.privacy.anchor import AnchorFile
from fedhealth.privacy.release import StepName
from fedhealth.privacy.stream import SECRET_BYTES, SiteNoiseSecret
from fedhealth.records.table import made_up_records
from fedhealth.secret_file import replace_file
from fedhealth.site.gate_inputs import Compute
from fedhealth.site.state import SiteState
from fedhealth.study.protocol import Study

REPLY_MARGIN = 1.25
"""Public duration of a reply over the slowest of the trials."""

_TRIALS = 15
_SHORTEST_REPLY_MS = 20


def measure_replies(study: Study, declared_patients: int, compute: Compute, state: SiteState) -> dict[StepName, int]:
    """Return the public duration of each step's reply, in ms, from made-up records of the declared size.

    Includes what it takes to make a payload durable on this disk, and to move the ledger's anchor after it.
    """
    records = made_up_records(study, declared_patients)
    streams = partial(SiteNoiseSecret(secrets.token_bytes(SECRET_BYTES)).stream, "calibration")
    scratch, place = state.gate / "calibration.tmp", state.gate / "calibration.anchor"
    anchor = AnchorFile(place)
    anchor.create(1, "0" * 64, 0, 0)
    durations: dict[StepName, int] = {}
    for name, step in plan_study(study).items():
        weights, rate = np.zeros(step.input_length), step.sampling_rate
        # Six standard deviations more patients than are drawn on average, so that no draw makes a reply late.
        trial = replace(step, sampling_rate=min(1.0, rate + 6 * math.sqrt(rate / declared_patients)))
        trials = []
        for _ in range(_TRIALS):
            start = time.perf_counter()
            payload, _ = compute[name](trial, weights, records, streams)
            replace_file(scratch, payload)
            anchor.move(1, "0" * 64, 0, 0)
            trials.append(time.perf_counter() - start)
        slowest = sorted(trials[1:])[-2] * 1000  # the first warms up; one outlier is the machine's
        durations[name] = max(_SHORTEST_REPLY_MS, math.ceil(REPLY_MARGIN * slowest / 5) * 5)
    scratch.unlink()
    place.unlink()
    return durations
