"""The reference: what nobody could know of a federation, computed because the records of these sites are public.

It opens the sites' tables itself, in one place, and compares three kinds of model on the held-out patients: the
federation's, one trained at each hospital alone, and one trained on all records together. The last two are logistic
regressions without clipping and without noise, fitted to convergence (Newton's method, far beyond the protocol's
rounds) with the usual ridge of 1/2 |weights|^2 beside the summed loss, so that a small hospital alone is not made to
look worse than it must. A patient counts once, whatever the number of records, and is judged as in
`fedhealth.learning.diagnosis`: called ill when the mean score is above zero, ill when any record says so.

Invariants: no table is opened before every site has said `public_data = true`; nothing here takes part in a
federation, and no module of FedHealth imports this one. It is a program of its own:

    python -m fedhealth.demo.reference --protocol P --model model.safetensors --site-folder sites/cleveland --out F

Showing the figures is left to `fedhealth.coordinator.report`.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhealth.coordinator.report import Reference, Score, SiteReference
from fedhealth.errors import ConfigInvalid, DataUnusable, FedHealthError, PolicyForbids
from fedhealth.learning.model_file import read_model
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.records.source import read_source
from fedhealth.records.table import Records, prepare_records
from fedhealth.study.protocol import Study, load_study

Vector = NDArray[np.float64]

_RIDGE = 1.0
_BIAS_RIDGE = 1e-6  # keeps the optimum finite where all patients have one outcome


@dataclass(frozen=True)
class Outcomes:
    """What a model says of patients, and what is true; shape (patients,) each.

    Attributes:
        scores: above 0 calls the patient ill.
        ill: whether the patient is.
    """

    scores: Vector
    ill: NDArray[np.bool_]


def area_under_curve(scores: Vector, ill: NDArray[np.bool_]) -> float | None:
    """Return how often an ill patient scores higher than a healthy one, a tie counting half.

    Args:
        scores: shape (patients,).
        ill: shape (patients,).

    Returns:
        The area under the ROC curve, or None where nobody or everybody is ill.

    Source: Hanley and McNeil, Radiology 1982 (the Mann-Whitney statistic).

    Example:
        >>> area_under_curve(np.array([1.0, 2.0, 2.0]), np.array([False, False, True]))
        0.75
    """
    positives, negatives = int(ill.sum()), int((~ill).sum())
    if not positives or not negatives:
        return None
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((ranks[ill].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def score_of(outcomes: Outcomes) -> Score:
    """Return raw accuracy and AUC."""
    right = (outcomes.scores > 0) == outcomes.ill
    return Score(accuracy=float(right.mean()), auc=area_under_curve(outcomes.scores, outcomes.ill))


def outcomes_of(weights: Vector, sides: Sequence[Records]) -> Outcomes:
    """Return a model's scores for all patients of some tables, one table after the other.

    Args:
        weights: shape (features + 1,), the bias last.
        sides: each with patients of its own.
    """
    scores, ill = [], []
    for side in sides:
        each = (side.features * weights[:-1]).sum(axis=1) + weights[-1]
        total = np.bincount(side.patients, weights=each, minlength=side.patient_count)
        scores.append(total / np.bincount(side.patients, minlength=side.patient_count))
        ill.append(np.bincount(side.patients, weights=side.labels, minlength=side.patient_count) > 0)
    return Outcomes(np.concatenate(scores), np.concatenate(ill))


def fit_without_privacy(sides: Sequence[Records]) -> Vector:
    """Return the logistic regression of all patients of some tables, the bias last; see the module for the ridge.

    Each patient weighs 1, shared by the patient's records. Steps are Newton's, halved while they do not help, until
    the weights stay the same to ten digits.
    """
    features = np.concatenate([np.column_stack([side.features, np.ones(len(side.labels))]) for side in sides])
    labels = np.concatenate([side.labels for side in sides])
    shares = np.concatenate([1 / np.bincount(side.patients)[side.patients] for side in sides])
    ridge = np.full(features.shape[1], _RIDGE)
    ridge[-1] = _BIAS_RIDGE

    def loss(weights: Vector) -> float:
        scores = features @ weights
        return float(shares @ (np.logaddexp(0, scores) - labels * scores) + ridge @ (weights * weights) / 2)

    weights = np.zeros(features.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-(features @ weights)))
        gradient = features.T @ (shares * (chance - labels)) + ridge * weights
        curvature = (features.T * (shares * chance * (1 - chance))) @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-10:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= 1e-10:
            break
    return weights


def make_reference(study: Study, model: bytes, site_folders: Sequence[Path]) -> Reference:
    """Return the raw figures of a federation of public data.

    Args:
        study: the protocol that was run.
        model: the content of `model.safetensors`.
        site_folders: the sites' folders, each with its `site.toml`.

    Raises:
        PolicyForbids: a site does not say that its records are public; no table was opened.
        ConfigInvalid: a site file is wrong, or one site is named twice.
        DataUnusable: a table or the model is not as the protocol needs it.
    """
    sites = _public_sites(site_folders, study)
    federated = read_model(model, study).weights
    sides = {site.id: _sides_of(site, study) for site in sites}
    training = [sides[site.id][0] for site in sites]
    held_out = [sides[site.id][1] for site in sites]
    parts = []
    for site, own, kept in zip(sites, training, held_out, strict=True):
        alone = fit_without_privacy([own])
        parts.append(
            SiteReference(
                site=site.id,
                training_patients=own.patient_count,
                held_out_patients=kept.patient_count,
                held_out_ill=int(outcomes_of(alone, [kept]).ill.sum()),
                local_alone=score_of(outcomes_of(alone, [kept])),
                local_alone_pooled=score_of(outcomes_of(alone, held_out)),
                federated=score_of(outcomes_of(federated, [kept])),
            )
        )
    return Reference(
        study=study.digest,
        model_sha256=hashlib.sha256(model).hexdigest(),
        sites=tuple(parts),
        federated=score_of(outcomes_of(federated, held_out)),
        pooled_without_privacy=score_of(outcomes_of(fit_without_privacy(training), held_out)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write `reference.json`; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fedhealth.demo.reference",
        description="Raw figures of a federation whose records are public. For no other data.",
    )
    parser.add_argument("--protocol", type=Path, required=True, help="the study protocol that was run")
    parser.add_argument("--model", type=Path, required=True, help="the model.safetensors it gave")
    parser.add_argument("--site-folder", type=Path, required=True, action="append", help="once for each site")
    parser.add_argument("--out", type=Path, required=True, help="where to write reference.json")
    given = parser.parse_args(arguments)
    try:
        reference = make_reference(load_study(given.protocol), given.model.read_bytes(), given.site_folder)
        given.out.write_text(reference.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except FedHealthError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{error.filename} cannot be used; got {error.strerror}. Check the path.\n")
        return FedHealthError.exit_code
    return 0


def _public_sites(folders: Sequence[Path], study: Study) -> list[SiteFile]:
    """Read every `site.toml` and nothing else, and let only public data pass."""
    sites = sorted((load_site_file(folder) for folder in folders), key=lambda site: site.id)
    if len({site.id for site in sites}) != len(sites) or not sites:
        raise ConfigInvalid("the reference needs each site's folder once", got=", ".join(site.id for site in sites))
    for site in sites:
        if not site.public_data or site.split_key is None:
            raise PolicyForbids(
                f"the reference shows raw figures, and the records of site '{site.id}' are not public",
                got="public_data = false or absent in its site.toml",
                wanted="public_data = true, and that in truth",
                next_step="Leave the site out. There is no reference for patients whose records are not public.",
            )
        if site.data_set.name != study.data_set:
            raise ConfigInvalid(
                f"site '{site.id}' has another data set than study '{study.name}' asks for",
                got=f"'{site.data_set.name}'",
                wanted=f"'{study.data_set}'",
            )
    return sites


def _sides_of(site: SiteFile, study: Study) -> tuple[Records, Records]:
    data = site.data_set
    table = read_source(data.source, strict=True)
    sides = prepare_records(table, study, data.patient_column, bytes.fromhex(site.split_key or ""), strict=True)
    if not all(side.patient_count for side in sides):
        raise DataUnusable(f"site '{site.id}' has no patients on one side of the split")
    return sides


if __name__ == "__main__":
    sys.exit(main())
