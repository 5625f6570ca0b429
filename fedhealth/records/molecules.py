"""The structure of a molecule as model inputs: RDKit's fingerprints and descriptors of one cell, by this cell alone.

Whatever a cell holds, it gives the same inputs each time and everywhere, in a bounded time: what is longer than
`MAX_SMILES` is not looked at, no rule depends on a clock, and whatever RDKit makes of a cell ends with it. Nothing of
a cell is in a log: RDKit's own, which repeats what it cannot read, is kept silent.

RDKit is loaded where a study asks for molecules alone; a gate without such a study runs none of its code.
"""

import math
import re
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid
from fedhealth.records.cells import is_blank
from fedhealth.study.molecules import DESCRIPTORS, MAX_SMILES, Fingerprint, MoleculeFeature

if TYPE_CHECKING:
    from rdkit.Chem import Mol

_ATOM = r"\[[^\[\]\s]+\]|Br|Cl|[BCNOPSFI]|[bcnops]"
_SMILES = re.compile(rf"(?:{_ATOM})(?:{_ATOM}|[-=#$:/\\.()*]|%\d\d|\d)*", re.ASCII)
_MOSTLY = 0.9
_BOND = re.compile(r"[=#()\[\d]", re.ASCII)


def molecule_inputs(feature: MoleculeFeature, cell: str) -> list[float]:
    """Return the model inputs that a cell becomes, each within [-1, 1].

    Args:
        feature: what is asked of the structure.
        cell: a SMILES; anything at all.

    Raises:
        ConfigInvalid: RDKit is not installed.
    """
    inputs = None if (molecule := read_molecule(cell)) is None else _inputs_of(feature, molecule)
    absent = inputs is None
    if inputs is None:
        inputs = np.zeros(feature.width - feature.missing_indicator)
    return [*inputs.tolist(), float(absent)] if feature.missing_indicator else inputs.tolist()


def read_molecule(cell: str) -> "Mol | None":
    """Return the molecule of a cell, None where there is none that can be read.

    Raises:
        ConfigInvalid: RDKit is not installed.
    """
    chem = _rdkit()
    if is_blank(cell) or len(cell) > MAX_SMILES or not cell.isascii() or not cell.isprintable() or " " in cell:
        return None
    try:
        molecule = chem.MolFromSmiles(cell)
    except MemoryError:
        raise  # the machine's, not the cell's
    except Exception:  # one patient's cell must not stop everybody, whatever RDKit says of it
        return None
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def look_like_smiles(cells: Collection[str]) -> bool:
    """Say whether texts are nearly all written as SMILES are, with a bond, ring or branch; without RDKit."""
    alike = sum(bool(_SMILES.fullmatch(cell) and _BOND.search(cell)) for cell in cells)
    return bool(cells) and alike >= _MOSTLY * len(cells)


def _inputs_of(feature: MoleculeFeature, molecule: "Mol") -> NDArray[np.float64] | None:
    """Return the inputs of a molecule; None where RDKit cannot say one of them."""
    descriptors = _rdkit().Descriptors
    try:
        parts = [_counts(each, molecule) for each in feature.fingerprints]
        values = [getattr(descriptors, DESCRIPTORS[each.name].function)(molecule) for each in feature.descriptors]
    except MemoryError:
        raise
    except Exception:
        return None
    if not all(math.isfinite(value) for value in values):
        return None
    scaled = [
        2 * (min(max(value, low), high) - low) / (high - low) - 1
        for value, (low, high) in zip(values, (each.range for each in feature.descriptors), strict=True)
    ]
    return np.concatenate([*parts, scaled])


def _counts(fingerprint: Fingerprint, molecule: "Mol") -> NDArray[np.float64]:
    counts = _generator(fingerprint).GetCountFingerprintAsNumPy(molecule).astype(np.float64)
    largest = float(fingerprint.largest_count)
    return np.asarray(np.minimum(counts, largest) / largest, dtype=np.float64)


@lru_cache(maxsize=32)
def _generator(fingerprint: Fingerprint) -> Any:  # noqa: ANN401 - RDKit's own type has no public name
    generators = _rdkit().rdFingerprintGenerator
    roles = {"atomInvariantsGenerator": generators.GetMorganFeatureAtomInvGen()} if fingerprint.atoms == "roles" else {}
    return generators.GetMorganGenerator(radius=fingerprint.radius, fpSize=fingerprint.size, **roles)


@lru_cache(maxsize=1)
def _rdkit() -> Any:  # noqa: ANN401 - a module, and its parts as attributes
    """Return RDKit, kept silent for the rest of this process."""
    try:
        import rdkit.Chem.Descriptors
        import rdkit.Chem.rdFingerprintGenerator
        import rdkit.rdBase
    except ImportError as error:
        raise ConfigInvalid(
            "a study reads molecules, and RDKit is not installed",
            next_step="Install it: pip install 'fedhealth[molecules]'",
        ) from error
    rdkit.rdBase.DisableLog("rdApp.*")  # its messages repeat the cell
    return rdkit.Chem
