"""The model of a study as a file: safetensors with one tensor, whose it is, and what goes into it. Torch-free.

The tensor "weights" is what `fedhealth.learning.models` says of the kind of model: of a logistic regression one weight
for each input, in order, and the bias last; the log odds of the outcome are their sum over the inputs. One key of the
metadata, "fedhealth", holds JSON that names every input and says how it is scaled, so that the file can be used without
anything else. Equal models give equal bytes (safetensors writes several keys in any order, so there is one).
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import DataUnusable
from fedhealth.learning.models.table import model_of
from fedhealth.learning.outcomes.survival import total_hazards
from fedhealth.learning.plan import plan_study
from fedhealth.records.cells import is_blank, is_unreadable
from fedhealth.records.molecules import read_molecule
from fedhealth.records.table import inputs_of
from fedhealth.study.features import CategoryFeature, Feature, NumberFeature
from fedhealth.study.molecules import DESCRIPTORS, MAX_SMILES, MoleculeFeature
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study
from fedhealth.study.survival_endpoint import SurvivalEndpoint

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class ModelFile:
    """A model that was read.

    Attributes:
        weights: shape (d,), finite.
        notes: what the file says of itself: those of `notes_of`, if it is whole.
    """

    weights: NDArray[np.float64]
    notes: dict[str, Any]


@dataclass(frozen=True)
class ReleasedModel:
    """A model with the study that says what goes into it.

    Attributes:
        study: the protocol.
        weights: shape (d,); of a logistic regression (inputs + 1,), the bias last.
    """

    study: Study
    weights: NDArray[np.float64]

    def chance_of(self, record: Mapping[str, object]) -> float:
        """Return the chance of the outcome that the model gives one record, in [0, 1]; of survival, by the horizon.

        Args:
            record: a value for each feature's column, spelled as in the data set; None or "" where it was not measured.

        Raises:
            DataUnusable: a column is missing, or holds text where a number is wanted, or no structure where
                one is.
            ConfigInvalid: it reads molecules, and RDKit is not installed.
        """
        inputs: list[float] = []
        for feature in self.study.features:
            if feature.column not in record:
                raise DataUnusable(
                    f"the record has no '{feature.column}'",
                    wanted="a value, or a blank where it was not measured",
                    next_step="Name every column that the model card lists.",
                )
            value = record[feature.column]
            cell = "" if value is None else str(value).strip()
            if isinstance(feature, NumberFeature) and is_unreadable(cell):
                raise DataUnusable(
                    f"'{feature.column}' of the record cannot be used",
                    got="text or a number that is not finite",
                    wanted=f"a number of {feature.unit}, or a blank where it was not measured",
                    next_step="Correct it.",
                )
            if isinstance(feature, MoleculeFeature) and not is_blank(cell) and read_molecule(cell) is None:
                raise DataUnusable(
                    f"'{feature.column}' of the record cannot be used",
                    got="no structure that can be read",
                    wanted=f"a SMILES of at most {MAX_SMILES} characters, or a blank where there is none",
                    next_step="Correct it.",
                )
            inputs += inputs_of(feature, cell)
        if isinstance(self.study.endpoint, SurvivalEndpoint):
            return self._risk_of(inputs)
        score = math.fsum(weight * each for weight, each in zip(self.weights.tolist(), [*inputs, 1.0], strict=True))
        return 1 / (1 + math.exp(-score)) if score > -700 else 0.0

    def _risk_of(self, inputs: Sequence[float]) -> float:
        """Return the risk of the event by the horizon; torch is loaded by this."""
        from fedhealth.training.per_patient import model_outputs

        outputs = model_outputs(model_of(self.study).module(self.study), self.weights, np.array([inputs]))
        return -math.expm1(-float(total_hazards(self.study, outputs)[0]))


def load_model(folder: Path) -> ReleasedModel:
    """Read the model that a run published, with its signed study.

    Args:
        folder: with `model.safetensors` and `study.signed`; `fedhealth audit verify` says whether they can be trusted.

    Raises:
        DataUnusable: a file is missing, or the model is not of this study.
        IdentityInvalid: the study's signature is wrong.
    """
    try:
        study = open_signed_study((folder / "study.signed").read_bytes()).study
        model = read_model((folder / "model.safetensors").read_bytes(), study)
    except OSError as error:
        raise DataUnusable(
            f"{error.filename} cannot be read",
            got=error.strerror or "an error",
            wanted="the folder of a run's results",
            next_step="Check the path.",
        ) from error
    return ReleasedModel(study, model.weights)


def model_bytes(weights: NDArray[np.float64], study: Study, rounds: int) -> bytes:
    """Return a model as a file.

    Args:
        weights: shape (d,); of a logistic regression (inputs + 1,), the bias last.
        study: the protocol.
        rounds: of training that count.
    """
    return save({"weights": weights}, metadata={"fedhealth": canonical_bytes(notes_of(study, rounds)).decode()})


def notes_of(study: Study, rounds: int) -> dict[str, Any]:
    """Return what the file of a study's model says of itself, as JSON.

    "inputs" has an entry for each input, in order, or one for as many as its "count" says. A number x
    with "range" [low, high] goes in as 2 (min(max(x, low), high) - low) / (high - low) - 1, with "impute" in the place
    of a missing one; a "category" as 1 where the column holds that word, else 0; "missing" as 1 where the column's
    value is missing, else 0. Of a molecule, a "fingerprint" is so many counts c of RDKit's Morgan fingerprint
    (GetCountFingerprintAsNumPy), which go in as min(c, largest_count) / largest_count, and a "descriptor" is the
    function of rdkit.Chem.Descriptors, scaled from its range as a number is; both are 0 if missing. Of survival,
    "interval_ends" are those of the protocol, and "hidden" the widths of a network's hidden layers.
    """
    survival: dict[str, Any] = {}
    if isinstance(study.endpoint, SurvivalEndpoint):
        survival = {"interval_ends": list(study.endpoint.interval_ends), "hidden": list(study.model.hidden)}
    return {
        **survival,
        "study": study.digest,
        "rounds": rounds,
        "kind": study.model.kind,
        "outcome": study.endpoint.outcome,
        "inputs": [each for feature in study.features for each in _inputs_of(feature)],
    }


def _inputs_of(feature: Feature) -> list[dict[str, Any]]:
    column, inputs = feature.column, list[dict[str, Any]]()
    if isinstance(feature, CategoryFeature):
        inputs += [{"name": f"{column} = {word}", "column": column, "category": word} for word in feature.categories]
    elif isinstance(feature, MoleculeFeature):
        inputs += _inputs_of_molecule(feature)
    else:
        scaling = {"unit": feature.unit, "range": list(feature.range), "impute": feature.impute}
        missing = {"missing_values": list(feature.missing_values)}
        inputs += [{"name": column, "column": column, **scaling, **missing}]
    if feature.missing_indicator:
        inputs.append({"name": f"{column} is missing", "column": column, "missing": True})
    return inputs


def _inputs_of_molecule(feature: MoleculeFeature) -> Iterator[dict[str, Any]]:
    column = feature.column
    for each in feature.fingerprints:
        name = f"{column}: fingerprint, {each.atoms}, radius {each.radius}"
        yield {"name": name, "column": column, "count": each.size, "fingerprint": each.model_dump(mode="json")}
    for descriptor in feature.descriptors:
        facts = DESCRIPTORS[descriptor.name]
        scaling = {"descriptor": facts.function, "unit": facts.unit, "range": list(descriptor.range)}
        yield {"name": f"{column}: {descriptor.name}", "column": column, **scaling}


def read_model(data: bytes, study: Study) -> ModelFile:
    """Return the model in a safetensors file.

    Raises:
        DataUnusable: it is no safetensors file, or not the size of this study's model.
    """
    try:
        tensors = load(data)
        header = json.loads(data[_LENGTH.size : _LENGTH.size + _LENGTH.unpack_from(data)[0]])
        notes = json.loads(header.get("__metadata__", {}).get("fedhealth", "{}"))
    except (SafetensorError, ValueError, struct.error) as error:
        raise DataUnusable("the model is not a safetensors file", got=str(error)) from error
    weights, length = tensors.get("weights"), plan_study(study)["evaluate"].input_length
    fits = weights is not None and weights.dtype == np.float64 and weights.shape == (length,)
    if weights is None or not fits or not np.isfinite(weights).all():
        raise DataUnusable(
            f"the model is not of study '{study.name}'",
            got=", ".join(f"{name} {tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors.items()),
            wanted=f"one tensor 'weights', float64[{length}], finite",
            next_step="Give the model.safetensors of the same run.",
        )
    return ModelFile(np.asarray(weights), notes if isinstance(notes, dict) else {})
