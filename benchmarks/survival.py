"""Concordance of Cox's regression over 13 dialysis centres, with differential privacy and without, against pooled Cox.

The records are SurvSet's "Dialysis" (extra "studies", GPL, read from the installed package): 6,805 patients of 67
centres of Rio de Janeiro, of which the 13 with at least 150 patients take part, each as a hospital of its own. A seed
decides who is held out and the noise; the protocol beside this file was fixed before. With privacy: real gates,
ledgers, mechanism and Flower strategy, in this process, epsilon 3 at each site. Without: the same rounds, no clip and
no noise. Pooled: Cox's regression (scikit-survival, Breslow's ties) on all training patients in one table, and our own
stratified by centre. All are judged by Harrell's index (scikit-survival) on the held-out patients of all centres.

Run: .venv/bin/python benchmarks/survival.py [--seeds 10] [--protocol benchmarks/dialysis-network.toml]
"""

import argparse
import csv
import importlib.util
import logging
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.models.table import model_of
from fedhealth.learning.outcomes.survival import total_hazards
from fedhealth.learning.raw_survival import fit_cox
from fedhealth.records.source import read_table_file
from fedhealth.records.table import Records, Table
from fedhealth.simulation.hospitals import Split, split_table
from fedhealth.simulation.in_process import InProcessFederation
from fedhealth.simulation.without_privacy import train_without_privacy
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic, model_outputs

PROTOCOL = Path(__file__).with_name("dialysis-survival.toml")
LEAST_PATIENTS = 150
COLUMNS = {"pid": "pid", "fac_center": "center", "num_age": "age", "fac_disease": "disease"}
COLUMNS |= {"event": "event", "time": "time"}


def main() -> None:
    """Print one line a seed, then means, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL, help="dialysis-network.toml: the network instead")
    given = parser.parse_args()
    seeds = given.seeds
    if missing := [name for name in ("SurvSet", "sksurv") if importlib.util.find_spec(name) is None]:
        raise SystemExit(f"{' and '.join(missing)} not installed: pip install 'fedhealth[studies]'")
    logging.disable(logging.WARNING)
    make_deterministic()
    study, table = load_study(given.protocol), dialysis_table()
    print("seed  pooled  stratified  without DP  with DP")
    found = []
    for seed in range(seeds):
        hospitals = split_table(table, study, Split("center", "pid", seed=seed))
        training = {site: sides[0] for site, sides in hospitals.sides.items()}
        held_out = joined([sides[1] for sides in hospitals.sides.values()])
        strata = [(side.features, side.labels[:, 1], side.labels[:, 0] > 0) for side in training.values()]
        federation = InProcessFederation(study, hospitals.sites)
        try:
            private = [weights for _, weights in federation.train()][-1]
        finally:
            federation.close()
        plain = train_without_privacy(study, training, hospitals.declared_patients)
        found.append(
            (
                concordance(held_out.features @ pooled_cox(joined(list(training.values()))), held_out),
                concordance(held_out.features @ fit_cox(strata), held_out),
                concordance(risks(study, plain, held_out), held_out),
                concordance(risks(study, private, held_out), held_out),
            )
        )
        print(_row(f"{seed:4d}", found[-1]), flush=True)
    pooled, _, without, with_dp = means = [statistics.mean(each) for each in zip(*found, strict=True)]
    print(_row("mean", means))
    print(f"pooled less without DP: {pooled - without:+.4f} (target: within 0.005) {abs(pooled - without) <= 0.005}")
    epsilon = study.privacy.training_epsilon
    print(f"pooled less epsilon {epsilon:g}: {pooled - with_dp:+.4f} (target: within 0.03) {pooled - with_dp <= 0.03}")
    print(f"largest in one seed: {max(each[0] - each[3] for each in found):+.4f}")


def _row(name: str, figures: Sequence[float]) -> str:
    pooled, stratified, without, with_dp = figures
    return f"{name}  {pooled:.4f}  {stratified:.4f}      {without:.4f}      {with_dp:.4f}"


def dialysis_table() -> Table:
    """Return the table of the larger centres."""
    from SurvSet.data import SurvLoader

    frame = SurvLoader().load_dataset("Dialysis")["df"].rename(columns=COLUMNS)[list(COLUMNS.values())]
    patients = frame["center"].value_counts()
    large = frame[frame["center"].isin(patients.index[patients >= LEAST_PATIENTS])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dialysis.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([large.columns, *large.itertuples(index=False)])
        return read_table_file(path)


def joined(sides: list[Records]) -> Records:
    """Return the records of several sides as one; a patient has one record."""
    count = sum(side.patient_count for side in sides)
    features = np.concatenate([side.features for side in sides])
    return Records(features, np.concatenate([side.labels for side in sides]), np.arange(count), count)


def pooled_cox(side: Records) -> NDArray[np.float64]:
    """Return the coefficients of one table, by scikit-survival."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    outcome = np.array(list(zip(side.labels[:, 0] > 0, side.labels[:, 1], strict=True)), dtype="?,<f8")
    return np.asarray(CoxPHSurvivalAnalysis(ties="breslow").fit(side.features, outcome).coef_)


def risks(study: Study, weights: NDArray[np.float64], side: Records) -> NDArray[np.float64]:
    """Return the cumulative hazard by the horizon that a model of the study gives each patient."""
    return total_hazards(study, model_outputs(model_of(study).module(study), weights, side.features))


def concordance(risk: NDArray[np.float64], side: Records) -> float:
    """Return Harrell's index, by scikit-survival."""
    from sksurv.metrics import concordance_index_censored

    return float(concordance_index_censored(side.labels[:, 0] > 0, side.labels[:, 1], risk)[0])


if __name__ == "__main__":
    main()
