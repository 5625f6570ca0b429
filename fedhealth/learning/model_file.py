"""The model of a study as a file: safetensors, whose it is, and what goes into it and comes out. Torch-free.

What its tensors are called and how outputs follow from them, the model's module says (`tensors`, `reading`); the model
card repeats it. One metadata key, "fedhealth", holds JSON that names every input and says how it is scaled, and what
the outputs mean, so that the file can be used without anything else. Equal models give equal bytes (safetensors writes
several keys in any order, so there is one). Only who asks a `ReleasedModel` for a prediction loads torch.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.learning.models.table import model_of
from fedhealth.learning.outcomes.survival import total_hazards
from fedhealth.records.cells import is_blank, is_unreadable
from fedhealth.records.image_inputs import why_unreadable
from fedhealth.records.molecules import read_molecule
from fedhealth.records.table import is_in_study, is_left_out, record_inputs
from fedhealth.study.diagnosis_endpoints import ClassesEndpoint, NumberEndpoint
from fedhealth.study.endpoints import BinaryEndpoint, CategoryEndpoint, Endpoint
from fedhealth.study.features import CategoryFeature, Feature, NumberFeature
from fedhealth.study.images import Descriptors, ImageFeature
from fedhealth.study.modalities import absent_from
from fedhealth.study.molecules import DESCRIPTORS, MAX_SMILES, MoleculeFeature
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study
from fedhealth.study.survival_endpoint import SurvivalEndpoint

_LENGTH = struct.Struct("<Q")

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "binary": "chance_of",
        "category": "chance_of",
        "survival": "chance_of",
        "classes": "chances_of",
        "number": "value_of",
    }
)
"""The method of `ReleasedModel` for a kind of endpoint."""


@dataclass(frozen=True)
class ModelFile:
    """A model that was read.

    Attributes:
        weights: all tensors one after the other, finite.
        notes: what the file says of itself: those of `notes_of`, if it is whole.
    """

    weights: NDArray[np.float64]
    notes: dict[str, Any]


@dataclass(frozen=True)
class ReleasedModel:
    """A model with the study that says what goes into it.

    In each method, the record is a value for each feature's column, spelled as in the data set; None or "" where it was
    not measured. A modality that may be absent can be left out. Each raises `DataUnusable` if a column is missing, or
    holds text where a number is wanted, or nothing where the study leaves such records out; and `ConfigInvalid` if the
    study's endpoint is of another kind, or it reads molecules and RDKit is not installed.

    Attributes:
        study: the protocol.
        weights: as in its file.
        images: the folder below which the images of a record lie.
    """

    study: Study
    weights: NDArray[np.float64]
    images: Path = Path()

    def chance_of(self, record: Mapping[str, object]) -> float:
        """Return the chance of the outcome that the model gives one record, in [0, 1]; of survival, by the horizon."""
        endpoint = self.study.endpoint
        if isinstance(endpoint, SurvivalEndpoint):
            return -math.expm1(-float(total_hazards(self.study, np.array([self._outputs_of(record)]))[0]))
        if not isinstance(endpoint, BinaryEndpoint | CategoryEndpoint):
            raise self._refusal("the chance of yes")
        (score,) = self._outputs_of(record)
        return 1 / (1 + math.exp(-score)) if score > -700 else 0.0

    def chances_of(self, record: Mapping[str, object]) -> dict[str, float]:
        """Return the chance of each class that the model gives one record; they add up to 1."""
        if not isinstance(self.study.endpoint, ClassesEndpoint):
            raise self._refusal("a chance for each class")
        scores = self._outputs_of(record)
        odds = [math.exp(score - max(scores)) for score in scores]
        return {word: each / math.fsum(odds) for word, each in zip(self.study.endpoint.classes, odds, strict=True)}

    def value_of(self, record: Mapping[str, object]) -> float:
        """Return the quantity that the model predicts for one record, in the endpoint's unit, within its range."""
        if not isinstance(self.study.endpoint, NumberEndpoint):
            raise self._refusal("a quantity")
        (output,) = self._outputs_of(record)
        low, high = self.study.endpoint.range
        return low + (min(max(output, -1.0), 1.0) + 1) / 2 * (high - low)

    def _refusal(self, asked: str) -> ConfigInvalid:
        kind = self.study.endpoint.kind
        return ConfigInvalid(
            f"the model of study '{self.study.name}' does not give {asked}",
            got=f"an endpoint of kind '{kind}'",
            next_step=f"Use {METHODS[kind]}." if kind in METHODS else "Its model card says what it gives.",
        )

    def _outputs_of(self, record: Mapping[str, object]) -> list[float]:
        from fedhealth.training.per_patient import model_outputs

        module, inputs = model_of(self.study).module(self.study), np.array([self._inputs_of(record)])
        return [float(output) for output in model_outputs(module, self.weights, inputs)[0]]

    def _inputs_of(self, record: Mapping[str, object]) -> list[float]:
        absent = absent_from(record, self.study.model.modalities)
        cells = {column: "" for modality in absent for column in modality.columns}
        for feature in self.study.features:
            if feature.column in cells:
                continue
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
            if isinstance(feature, ImageFeature) and (why := why_unreadable(feature, cell, self.images)):
                raise DataUnusable(
                    f"the image in '{feature.column}' of the record cannot be used: {why}",
                    wanted=f"an image as the model card says, below {self.images.absolute()}, or a blank",
                    next_step="Correct it.",
                )
            if is_left_out(feature, cell):
                raise DataUnusable(
                    f"the record has no value of '{feature.column}'",
                    wanted="one that the model card lists: the study left records without it out",
                    next_step="Measure it. The model says nothing of patients of whom it is not known.",
                )
            cells[feature.column] = cell
        if not is_in_study(self.study, cells):
            raise DataUnusable(
                "the record has none of the modalities: "
                + ", ".join(modality.name for modality in self.study.model.modalities),
                wanted="a value of at least one of their columns",
                next_step="Measure one. The model says nothing of patients of whom nothing is known.",
            )
        return record_inputs(self.study, cells, self.images)


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
        weights: shape (weights of the model,).
        study: the protocol.
        rounds: of training that count.

    Raises:
        ValueError: other weights than the model has.
    """
    if weights.shape != (size := model_of(study).size(study),):
        raise ValueError(f"weights have shape {weights.shape}, wanted ({size},)")
    tensors, at = dict[str, NDArray[np.float64]](), 0
    for name, shape in model_of(study).tensors(study).items():
        tensors[name] = weights[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    return save(tensors, metadata={"fedhealth": canonical_bytes(notes_of(study, rounds)).decode()})


def notes_of(study: Study, rounds: int) -> dict[str, Any]:
    """Return what the file of a study's model says of itself, as JSON.

    "inputs" has an entry for each input, in order, or one for as many as its "count" says. A number x with "range"
    [low, high] goes in as 2 (min(max(x, low), high) - low) / (high - low) - 1, with "impute" in the place of a missing
    one (null where records without it were left out); a "category" as 1 where the column holds that word, else 0;
    "missing" as 1 where the column's value is missing, else 0; a "modality" as 1 where any of the columns in "any_of"
    has a value, else 0. Of a molecule, a "fingerprint" is so many counts c of RDKit's Morgan fingerprint
    (GetCountFingerprintAsNumPy), which go in as min(c, largest_count) / largest_count, and a "descriptor" is the
    function of rdkit.Chem.Descriptors, scaled from its range as a number is; both are 0 if missing. "image" says
    on which grid and in which window an image is read, whose inputs are "pixels", "scattering" or a "descriptor", as
    docs/imaging.md says; all are 0 if missing.

    "reading" says how outputs follow, "meaning" what they mean: "log odds" of the outcome; "softmax scores", one for
    each of "classes"; "scaled value", -1 to 1 over "range"; or the "risk of the event" by the last of "interval_ends".
    """
    presence = [
        {"name": f"{each.name} is there", "modality": each.name, "any_of": list(each.columns)}
        for each in study.model.modalities
    ]
    return {
        "study": study.digest,
        "rounds": rounds,
        "kind": study.model.kind,
        "outcome": study.endpoint.outcome,
        "inputs": [each for feature in study.features for each in _inputs_of(feature)] + presence,
        "reading": model_of(study).reading(study),
        "output": _output_of(study.endpoint),
    }


def _output_of(endpoint: Endpoint) -> dict[str, Any]:
    if isinstance(endpoint, ClassesEndpoint):
        return {"meaning": "softmax scores", "classes": list(endpoint.classes)}
    if isinstance(endpoint, NumberEndpoint):
        return {"meaning": "scaled value", "unit": endpoint.unit, "range": list(endpoint.range)}
    if isinstance(endpoint, BinaryEndpoint | CategoryEndpoint):
        return {"meaning": "log odds"}
    if isinstance(endpoint, SurvivalEndpoint):
        return {"meaning": "risk of the event", "interval_ends": list(endpoint.interval_ends)}
    return {}


def _inputs_of(feature: Feature) -> list[dict[str, Any]]:
    column, inputs = feature.column, list[dict[str, Any]]()
    if isinstance(feature, CategoryFeature):
        inputs += [{"name": f"{column} = {word}", "column": column, "category": word} for word in feature.categories]
    elif isinstance(feature, MoleculeFeature):
        inputs += _inputs_of_molecule(feature)
    elif isinstance(feature, ImageFeature):
        inputs += _inputs_of_image(feature)
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


def _inputs_of_image(feature: ImageFeature) -> Iterator[dict[str, Any]]:
    column, asked = feature.column, feature.inputs
    grid = feature.model_dump(mode="json", include={"shape", "spacing", "fit", "window"})
    if isinstance(asked, Descriptors):
        unit = f"of the image, where it is above {asked.foreground:g}"
        for each in asked.descriptors:
            scaling = {"descriptor": each.title, "unit": unit, "range": list(each.range)}
            yield {"name": f"{column}: {each.title}", "column": column, **scaling, "image": grid}
        return
    own = asked.model_dump(mode="json", exclude={"kind"})
    count = {"count": asked.width(feature.shape)}
    yield {"name": f"{column}: {asked.kind}", "column": column, **count, "image": grid, asked.kind: own}


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
    wanted = model_of(study).tensors(study)
    fits = {name: tensor.shape for name, tensor in tensors.items()} == wanted
    if not fits or not all(tensor.dtype == np.float64 and np.isfinite(tensor).all() for tensor in tensors.values()):
        raise DataUnusable(
            f"the model is not of study '{study.name}'",
            got=", ".join(f"{name} {tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors.items()),
            wanted=", ".join(f"{name} float64{list(shape)}" for name, shape in wanted.items()) + ", finite",
            next_step="Give the model.safetensors of the same run.",
        )
    parts = [tensors[name].reshape(-1) for name in wanted]
    return ModelFile(np.concatenate(parts), notes if isinstance(notes, dict) else {})
