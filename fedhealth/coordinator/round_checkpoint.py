"""The checkpoint of a round: all that a killed run needs to go on with the same bits. Knows no Flower.

One safetensors file: the model's weights, the arrays that the strategy keeps from round to round, and one metadata key
with a SHA-256 over all the rest and JSON notes: which rounds are done by whom, the number of the last releases, and the
names of the releases that this round brought, so that their sites can be told again that they may drop them.

Invariants: after a crash the file is the old one or the new one, whole; equal checkpoints are equal bytes (safetensors
writes several metadata keys in any order, so there is one).
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedhealth.canonical import canonical_bytes
from fedhealth.coordinator.participation import Span
from fedhealth.errors import FederationFailed
from fedhealth.flower.kept_arrays import Arrays, Shape
from fedhealth.privacy.release import Digest
from fedhealth.secret_file import replace_file

CHECKPOINT_FILE = "checkpoint.safetensors"
WEIGHTS = "weights"
NOTES = "fedhealth"
_STRATEGY = "strategy/"
_CHECKSUM_DIGITS = 64


class Notes(BaseModel):
    """What a checkpoint says beside its arrays.

    Attributes:
        study: digest of the study.
        rounds: the rounds that are done.
        releases: names of the releases that the last of them brought, by site.
        strategy: how the arrays of the strategy belong together, by its attributes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: Digest
    rounds: Annotated[tuple[Span, ...], Field(min_length=1)]
    releases: dict[str, tuple[Digest, ...]]
    strategy: dict[str, Shape]


@dataclass(frozen=True)
class RoundCheckpoint:
    """A checkpoint.

    Attributes:
        notes: what it says.
        weights: the model, shape (d,).
        arrays: of the strategy.
        sha256: of the file that it was read from.
    """

    notes: Notes
    weights: NDArray[np.float64]
    arrays: Arrays = field(default_factory=dict)
    sha256: str = ""


def store_checkpoint(folder: Path, notes: Notes, weights: NDArray[np.float64], arrays: Arrays) -> str:
    """Write the checkpoint of a run's folder, durable on return, and return the file's SHA-256."""
    tensors = {WEIGHTS: weights} | {_STRATEGY + name: value for name, value in arrays.items()}
    text = canonical_bytes(notes).decode()
    data = safetensors.numpy.save(tensors, metadata={NOTES: _checksum(text, tensors) + text})
    replace_file(folder / CHECKPOINT_FILE, data)
    return hashlib.sha256(data).hexdigest()


def load_checkpoint(folder: Path, study: str) -> RoundCheckpoint | None:
    """Return the checkpoint of a run's folder, None if no round is done.

    Raises:
        FederationFailed: it is damaged, or of another study.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        data = path.read_bytes()
        with safetensors.safe_open(path, "numpy") as file:
            said = (file.metadata() or {})[NOTES]
        arrays = {name: value.copy() for name, value in safetensors.numpy.load(data).items()}
        checksum, text = said[:_CHECKSUM_DIGITS], said[_CHECKSUM_DIGITS:]
        if checksum != _checksum(text, arrays):
            raise ValueError("another checksum")  # a changed weight would be another question, and charged as one
        notes = Notes.model_validate_json(text)
        weights = np.asarray(arrays[WEIGHTS], dtype=np.float64)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise FederationFailed(
            f"the checkpoint {path} is damaged",
            got=type(error).__name__,
            next_step="Put a backup of it in its place; rounds after it are asked for again under spare numbers.",
        ) from error
    if notes.study != study:
        raise FederationFailed(
            f"the checkpoint {path} is of another study",
            got=notes.study[:12],
            wanted=study[:12],
            next_step="Give each study a folder of its own: --out.",
        )
    kept = {name.removeprefix(_STRATEGY): value for name, value in arrays.items() if name != WEIGHTS}
    return RoundCheckpoint(notes, weights, kept, hashlib.sha256(data).hexdigest())


def _checksum(text: str, arrays: Arrays) -> str:
    """Return the SHA-256 of the notes and of every array with its name, type and shape."""
    sha256 = hashlib.sha256(text.encode())
    for name, value in sorted(arrays.items()):
        sha256.update(f"\n{name} {value.dtype.str} {value.shape}\n".encode())
        sha256.update(np.ascontiguousarray(value).tobytes())
    return sha256.hexdigest()
