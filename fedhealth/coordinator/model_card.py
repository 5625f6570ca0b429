"""The model card of a run: what the released model is for, what it rests on, and how to use it, as Markdown.

It says what `evidence.json` and the signed study say and nothing else; equal arguments give equal bytes. A text from
the protocol stands on one line, and cannot end a table's cell or begin a heading, a link or HTML.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from fedhealth.coordinator.evidence import Evidence
from fedhealth.coordinator.wording import (
    absences,
    cohort_words,
    epsilon_words,
    figure_words,
    noise_words,
    number_words,
    row_words,
    runs_of,
    sampling_words,
    together,
)
from fedhealth.learning.model_file import METHODS, notes_of
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.study.images import ImageFeature
from fedhealth.study.molecules import DESCRIPTORS, MAX_SMILES, MoleculeFeature
from fedhealth.study.protocol import Study


def render_model_card(evidence: Evidence, study: Study) -> str:
    """Return the model card as Markdown.

    Args:
        evidence: of the run.
        study: the protocol that was run.
    """
    environment = Environment(  # noqa: S701 - Markdown; every text from outside goes through `text`
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "text": _one_line,
        "figure": figure_words,
        "number": number_words,
        "without_noise": sampling_words,
        "noise_alone": noise_words,
        "stated": row_words,
        "epsilon": epsilon_words,
        "runs": runs_of,
    }
    template = files("fedhealth.coordinator").joinpath("model-card.md.jinja").read_text(encoding="utf-8")
    notes = notes_of(study, evidence.rounds_completed)
    molecules = [feature for feature in study.features if isinstance(feature, MoleculeFeature)]
    asked = [descriptor.name for feature in molecules for descriptor in feature.descriptors]
    return environment.from_string(template).render(
        evidence=evidence,
        study=study,
        together=together(evidence),
        absent=absences(evidence),
        conditions=cohort_words(study),
        widest=outcome_of(study).widest(study),
        inputs=list(_numbered(notes["inputs"])),
        molecules=molecules,
        images=[feature for feature in study.features if isinstance(feature, ImageFeature)],
        fingerprints=list(dict.fromkeys(each for feature in molecules for each in feature.fingerprints)),
        descriptors=[DESCRIPTORS[name].function for name in dict.fromkeys(asked)],
        longest_smiles=MAX_SMILES,
        notes=notes,
        method=METHODS.get(study.endpoint.kind, "chance_of"),
    )


def _numbered(inputs: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each entry of a model's notes with the numbers of its inputs, as in "1" or "1 to 1024"."""
    last = 0
    for entry in inputs:
        first, last = last + 1, last + entry.get("count", 1)
        yield (str(first) if first == last else f"{first} to {last}"), entry


def _one_line(words: object) -> str:
    """Return a text as Markdown that shows it and means nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", " ".join(str(words).split()))
