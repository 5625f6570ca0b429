"""The report of a run for clinicians: one HTML page that needs nothing but itself.

The page says what `evidence.json` says, in words, tables and inline SVG. Raw figures of public data have a form of
their own (`Reference`, the schema of `reference.json`) and a section of their own, which exists only if they are
given.

Invariants: the page loads nothing and runs nothing; every text that comes from outside is escaped; a withheld figure
has no number anywhere; epsilon is rounded up, never down; equal arguments give equal bytes.

It computes no figure: `fedhealth.coordinator.evidence` does, and for public data `fedhealth.demo.reference`, which
this module never imports.
"""

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Literal

import matplotlib
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

import fedhealth
from fedhealth.coordinator.charts import (
    calibration_plot,
    decision_plot,
    effect_plot,
    forest_plot,
    paired_plot,
    roc_plot,
)
from fedhealth.coordinator.evidence import Evidence, evidence_bytes
from fedhealth.coordinator.wording import (
    absences,
    cohort_words,
    epsilon_words,
    figure_words,
    finding_words,
    guesses_right,
    noise_words,
    number_words,
    per_hundred_patients,
    percent,
    row_words,
    runs_of,
    sampling_words,
    sentence,
    together,
)
from fedhealth.errors import FedHealthError
from fedhealth.learning.binary_figures import Figures
from fedhealth.learning.figures import EffectFigure, FigureTable
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.study.protocol import Study

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0)]


_MOST_IN_A_CHART = 60
"""Hospitals of which a chart still has a row each; with more it shows all of them together."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Part):
    """A model's raw figures on some patients: no noise, no interval.

    Attributes:
        accuracy: share of patients it is right about; None of survival.
        auc: area under the ROC curve; None where all patients have the same outcome, and of survival.
        concordance: of survival, how often the earlier event has the higher risk; None where no order is known.
    """

    accuracy: _Share | None
    auc: _Share | None
    concordance: _Share | None = None

    @property
    def headline(self) -> float | None:
        """The figure that is compared."""
        return self.concordance if self.accuracy is None else self.accuracy


class SiteReference(_Part):
    """One hospital's raw figures.

    Attributes:
        site: its id.
        training_patients: exact number of patients on the training side.
        held_out_patients: exact number of held-out patients.
        held_out_ill: how many of these have the condition, or the event by the horizon.
        local_alone: the model trained on this hospital alone, on its own held-out patients.
        local_alone_pooled: the same model, on the held-out patients of all sites.
        federated: the federation's model, on this hospital's held-out patients.
    """

    site: SiteId
    training_patients: _Count
    held_out_patients: _Count
    held_out_ill: _Count
    local_alone: Score
    local_alone_pooled: Score
    federated: Score


class Reference(_Part):
    """The whole of `reference.json`: what nobody could know if the data were not public.

    Attributes:
        study: digest of the protocol.
        model_sha256: of the `model.safetensors` that was judged.
        sites: in alphabetical order.
        federated: the federation's model, on the held-out patients of all sites.
        pooled_without_privacy: a model trained on all sites' records in one place, on the same patients.
        federated_without_privacy: of a simulation, a model trained in the same rounds without clip and noise.
    """

    format: Literal["fedhealth/reference/1"] = "fedhealth/reference/1"
    study: Digest
    model_sha256: Digest
    sites: Annotated[tuple[SiteReference, ...], Field(min_length=1)]
    federated: Score
    pooled_without_privacy: Score
    federated_without_privacy: Score | None = None

    @property
    def measure(self) -> str:
        """What is compared, in words."""
        return "concordance" if self.federated.accuracy is None else "accuracy"


class SitePatients(_Part):
    """One hospital's exact number of patients in a study that trains nothing."""

    site: SiteId
    patients: _Count


class EstimateReference(_Part):
    """The whole of `reference.json` of a study that trains nothing.

    Attributes:
        study: digest of the protocol.
        model_sha256: of the run's `model.safetensors`, which has no weights.
        sites: in alphabetical order.
        without_privacy: the same figures from the same patients, without noise.
    """

    format: Literal["fedhealth/estimate-reference/1"] = "fedhealth/estimate-reference/1"
    study: Digest
    model_sha256: Digest
    sites: Annotated[tuple[SitePatients, ...], Field(min_length=1)]
    without_privacy: FigureTable


def render_report(
    evidence: Evidence,
    study: Study,
    site_titles: Mapping[str, str],
    reference: Reference | EstimateReference | None = None,
) -> str:
    """Return the report as one HTML page.

    Args:
        evidence: of the run.
        study: the protocol that was run.
        site_titles: the sites' names for people, by id; a site without one is called by its id.
        reference: raw figures of the same model; they get a section that nobody can take for the rest.

    Raises:
        FedHealthError: the three do not belong together.
    """
    if (got := evidence.study.get("digest")) != study.digest:
        raise FedHealthError("the evidence is of another study", got=str(got), wanted=study.digest)
    if reference and (reference.study, reference.model_sha256) != (study.digest, evidence.model_sha256):
        raise FedHealthError(
            "the reference is of another study or another model",
            got=f"study {reference.study}, model {reference.model_sha256}",
            wanted=f"study {study.digest}, model {evidence.model_sha256}",
            next_step="Make it again: python -m fedhealth.demo.reference --help",
        )
    absent = absences(evidence)
    names = {*absent, *(site.site for site in evidence.sites)}
    names |= {site.site for site in (reference.sites if reference else ())}
    titles = {name: site_titles.get(name, name) for name in names}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "figure": figure_words,
        "number": number_words,
        "without_noise": sampling_words,
        "noise_alone": noise_words,
        "stated": row_words,
        "per_patients": per_hundred_patients,
        "percent": percent,
        "epsilon": epsilon_words,
        "runs": runs_of,
        "sentence": sentence,
        "per_hundred": guesses_right,
    }
    template = files("fedhealth.coordinator").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        evidence=evidence,
        evidence_sha256=hashlib.sha256(evidence_bytes(evidence)).hexdigest(),
        writer=writer(),
        study=study,
        titles=titles,
        findings=[finding_words(feature) for feature in study.features],
        conditions=cohort_words(study),
        widest=outcome_of(study).widest(study),
        absent=absent,
        rounds_of={site.site: site.rounds for site in evidence.sites},
        together=together(evidence),
        charts=_charts_of(evidence, titles),
        reference=reference,
        reference_chart=_reference_chart(reference, titles) if isinstance(reference, Reference) else None,
    )


def _charts_of(evidence: Evidence, titles: Mapping[str, str]) -> dict[str, Markup | None]:
    pooled = evidence.pooled
    if not isinstance(pooled, Figures):
        effects = [(row, row.figure) for row in pooled.rows if isinstance(row.figure, EffectFigure)]
        rows = [(f"{row.group}: {row.name}" if row.group else row.name, figure) for row, figure in effects]
        title = "Effects, with 95\u00a0% intervals and the part of each that is noise"
        return {"effects": effect_plot(rows, "effects", title, effects[0][0].unit) if effects else None}
    own = [(titles[site.site], site.figures.headline.figure) for site in evidence.sites if site.figures is not None]
    own = own if len(own) <= _MOST_IN_A_CHART else []  # the table has them
    held_out = "on held-out patients, with 95\u00a0% intervals"
    accuracy = forest_plot([*own, (together(evidence), pooled.accuracy)], "accuracy", f"Accuracy {held_out}")
    charts: dict[str, Markup | None] = {"accuracy": accuracy}
    if pooled.subgroups:
        groups = [(f"{group.column}: {group.category}", group.accuracy) for group in pooled.subgroups]
        title = f"Accuracy in groups of patients {held_out}"
        charts["subgroups"] = forest_plot([*groups, ("All patients", pooled.accuracy)], "subgroups", title)
    if pooled.scores is None:
        return charts
    charts |= {"roc": roc_plot(pooled.scores), "calibration": calibration_plot(pooled.scores)}
    return {**charts, "decision": decision_plot(pooled.scores)}


def _reference_chart(reference: Reference, titles: Mapping[str, str]) -> Markup:
    """Draw raw figures: each site alone beside the federation, and the federation beside pooled records."""
    compared = [
        (titles[site.site], "□", "alone", site.local_alone.headline, site.federated.headline)
        for site in reference.sites
        if len(reference.sites) <= _MOST_IN_A_CHART
    ]
    pooled, federated = reference.pooled_without_privacy.headline, reference.federated.headline
    compared.append(("All hospitals together", "△", "pooled without privacy", pooled, federated))
    rows = [
        (title, sign, what, one, other)
        for title, sign, what, one, other in compared
        if one is not None and other is not None
    ]
    return paired_plot(rows, "reference", f"Raw {reference.measure} on held-out patients")


def writer() -> str:
    """Return what writes a page here; the same writer makes the same page, to the byte, of the same evidence."""
    return f"fedhealth {fedhealth.__version__}, matplotlib {matplotlib.__version__}"
