"""A feature read from the structure of a molecule: fingerprints and descriptors, with public ranges. Without RDKit.

A structure is a SMILES of at most `MAX_SMILES` characters. A blank, a longer cell, and whatever is no molecule count as
missing: all fingerprints are 0 and every descriptor lies in the middle of its range.

How they are computed is in `fedhealth.records.molecules`; the names here are RDKit's, so that whoever has a model can
compute its inputs without this program.

Sources: Rogers and Hahn, "Extended-connectivity fingerprints", J. Chem. Inf. Model. 2010 (`atoms = "elements"`, and
`"roles"` for its feature-class variant); each descriptor as RDKit documents it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.study.part import NARROWEST_RANGE, Column, Part, Real

MAX_SMILES = 500
"""Characters of a structure; a longer one counts as missing, so that no cell takes long."""

DescriptorName = Literal[
    "molecular-weight",
    "logp",
    "polar-surface",
    "hydrogen-bond-donors",
    "hydrogen-bond-acceptors",
    "rotatable-bonds",
    "rings",
    "aromatic-rings",
    "aliphatic-rings",
    "sp3-carbon-share",
    "heavy-atoms",
    "heteroatoms",
    "nitrogen-and-oxygen-atoms",
    "nh-and-oh-groups",
    "surface",
    "molar-refractivity",
]


@dataclass(frozen=True)
class DescriptorFacts:
    """What is public of a descriptor.

    Attributes:
        function: its name in RDKit's module `rdkit.Chem.Descriptors`.
        unit: for people.
        range: what nearly all orally given drugs lie in; a protocol states its own.
    """

    function: str
    unit: str
    range: tuple[float, float]


DESCRIPTORS: Mapping[DescriptorName, DescriptorFacts] = MappingProxyType(
    {
        "molecular-weight": DescriptorFacts("MolWt", "Da", (100, 900)),
        "logp": DescriptorFacts("MolLogP", "log units, Crippen", (-4, 7)),
        "polar-surface": DescriptorFacts("TPSA", "square angstrom, topological", (0, 250)),
        "hydrogen-bond-donors": DescriptorFacts("NumHDonors", "number", (0, 8)),
        "hydrogen-bond-acceptors": DescriptorFacts("NumHAcceptors", "number", (0, 15)),
        "rotatable-bonds": DescriptorFacts("NumRotatableBonds", "number", (0, 12)),
        "rings": DescriptorFacts("RingCount", "number", (0, 8)),
        "aromatic-rings": DescriptorFacts("NumAromaticRings", "number", (0, 5)),
        "aliphatic-rings": DescriptorFacts("NumAliphaticRings", "number", (0, 6)),
        "sp3-carbon-share": DescriptorFacts("FractionCSP3", "of the carbon atoms", (0, 1)),
        "heavy-atoms": DescriptorFacts("HeavyAtomCount", "number", (5, 60)),
        "heteroatoms": DescriptorFacts("NumHeteroatoms", "number", (0, 20)),
        "nitrogen-and-oxygen-atoms": DescriptorFacts("NOCount", "number", (0, 20)),
        "nh-and-oh-groups": DescriptorFacts("NHOHCount", "number", (0, 10)),
        "surface": DescriptorFacts("LabuteASA", "square angstrom, Labute", (40, 350)),
        "molar-refractivity": DescriptorFacts("MolMR", "cubic centimetres per mole, Crippen", (20, 220)),
    }
)


class Fingerprint(Part):
    """How often each of the atoms' neighbourhoods occurs, hashed to so many inputs (a Morgan fingerprint).

    An input is min(count, largest_count) / largest_count, in [0, 1].

    Attributes:
        atoms: what an atom is known by: its element and bonds ("elements"), or its role in binding, such as donor,
            acceptor, aromatic, acid, base ("roles").
        radius: of the neighbourhoods, in bonds.
        size: number of inputs.
        largest_count: 1 says only whether a neighbourhood occurs.
    """

    atoms: Literal["elements", "roles"] = "elements"
    radius: Annotated[int, Field(ge=0, le=3)] = 2
    size: Annotated[int, Field(ge=64, le=8192)] = 1024
    largest_count: Annotated[int, Field(ge=1, le=100)] = 1


class Descriptor(Part):
    """A number that follows from a structure, scaled linearly from a public range to [-1, 1] and clamped there.

    Attributes:
        name: of the closed list.
        range: lowest and highest value that count, in the descriptor's unit.
    """

    name: DescriptorName
    range: tuple[Real, Real]

    @model_validator(mode="after")
    def _range_runs_upwards(self) -> Self:
        low, high = self.range
        if not low < high:
            raise ValueError(f"range of '{self.name}' is [{low}, {high}], wanted the lower value first")
        if not high - low < float("inf"):
            raise ValueError(f"range of '{self.name}' is wider than a number can say")
        if high - low < NARROWEST_RANGE:
            raise ValueError(f"range of '{self.name}' is narrower than a number can scale")
        return self


class MoleculeFeature(Part):
    """Fingerprints and descriptors of the structure in a cell.

    The model's inputs are those of the fingerprints, in the protocol's order, then the descriptors, then the indicator.

    Attributes:
        column: name of the column in the data set; its cells are SMILES.
        fingerprints: any number of them, each different.
        descriptors: any number of them, each different.
        missing: what becomes of a record without a structure that can be read: all inputs are 0 ("zeros"), or the
            record is not in the study ("exclude").
        missing_indicator: add a feature that is 1 where no structure could be read, else 0.
    """

    kind: Literal["molecule"]
    column: Column
    fingerprints: Annotated[tuple[Fingerprint, ...], Field(max_length=8)] = ()
    descriptors: Annotated[tuple[Descriptor, ...], Field(max_length=len(DESCRIPTORS))] = ()
    missing: Literal["zeros", "exclude"] = "zeros"
    missing_indicator: bool = False

    @model_validator(mode="after")
    def _has_inputs_that_differ(self) -> Self:
        if self.missing == "exclude" and self.missing_indicator:
            raise ValueError(f"'{self.column}' excludes records without a structure, wanted no indicator")
        names = [each.name for each in self.descriptors]
        if len(set(names)) != len(names) or len(set(self.fingerprints)) != len(self.fingerprints):
            raise ValueError(f"fingerprints or descriptors of '{self.column}' repeat one")
        if not names and not self.fingerprints:
            raise ValueError(f"'{self.column}' has no fingerprint and no descriptor, wanted at least one")
        return self

    @property
    def width(self) -> int:
        """Number of model inputs this feature becomes."""
        return sum(each.size for each in self.fingerprints) + len(self.descriptors) + self.missing_indicator
