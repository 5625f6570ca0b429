"""The model card of a run: what the released model is for, what it rests on, and how to use it, as Markdown.

It says what `evidence.json` and the signed study say and nothing else; equal arguments give equal bytes. A text from
the protocol stands on one line, and cannot end a table's cell or begin a heading, a link or HTML.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

import re
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from fedhealth.coordinator.evidence import Evidence
from fedhealth.coordinator.wording import (
    absences,
    condition_words,
    epsilon_words,
    figure_words,
    noise_words,
    number_words,
    row_words,
    runs_of,
    sampling_words,
    together,
)
from fedhealth.learning.model_file import notes_of
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
    return environment.from_string(template).render(
        evidence=evidence,
        study=study,
        together=together(evidence),
        absent=absences(evidence),
        conditions=[condition_words(condition) for condition in study.include],
        inputs=notes_of(study, evidence.rounds_completed)["inputs"],
    )


def _one_line(words: object) -> str:
    """Return a text as Markdown that shows it and means nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", " ".join(str(words).split()))
