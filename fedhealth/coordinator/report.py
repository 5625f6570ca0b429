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
import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Annotated, Literal

import matplotlib
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from pydantic import BaseModel, ConfigDict, Field

import fedhealth
from fedhealth.coordinator.evidence import Evidence, evidence_bytes
from fedhealth.coordinator.figures import Figure
from fedhealth.errors import FedHealthError
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.study.protocol import NumberFeature, Study

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0)]

_INK, _FAINT, _BLUE, _AMBER, _SAND = "#1b2733", "#c3ccd6", "#0b5394", "#8a3b00", "#fff4e5"
_WIDTH, _ROW, _FOOT, _FONT = 330, 40, 28, 10.5  # points; narrow enough to be read on a phone


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Part):
    """A model's raw figures on some patients: no noise, no interval.

    Attributes:
        accuracy: share of patients it is right about.
        auc: area under the ROC curve; None where all patients have the same outcome.
    """

    accuracy: _Share
    auc: _Share | None


class SiteReference(_Part):
    """One hospital's raw figures.

    Attributes:
        site: its id.
        training_patients: exact number of patients on the training side.
        held_out_patients: exact number of held-out patients.
        held_out_ill: how many of these have the condition.
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
    """

    format: Literal["fedhealth/reference/1"] = "fedhealth/reference/1"
    study: Digest
    model_sha256: Digest
    sites: Annotated[tuple[SiteReference, ...], Field(min_length=1)]
    federated: Score
    pooled_without_privacy: Score


def render_report(
    evidence: Evidence, study: Study, site_titles: Mapping[str, str], reference: Reference | None = None
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
    names = {site.site for site in evidence.sites} | {site.site for site in (reference.sites if reference else ())}
    titles = {name: site_titles.get(name, name) for name in names}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "figure": _figure_words,
        "percent": _percent,
        "epsilon": _epsilon,
        "runs": _runs_of,
        "per_hundred": _guesses_right,
    }
    template = files("fedhealth.coordinator").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        evidence=evidence,
        evidence_sha256=hashlib.sha256(evidence_bytes(evidence)).hexdigest(),
        writer=writer(),
        study=study,
        titles=titles,
        findings=[
            f"{feature.column} ({feature.unit})" if isinstance(feature, NumberFeature) else feature.column
            for feature in study.features
        ],
        accuracy_chart=_forest_plot(
            [(titles[site.site], site.figures.accuracy) for site in evidence.sites if site.figures is not None],
            evidence.pooled.accuracy,
        ),
        reference=reference,
        reference_chart=_reference_plot(reference, titles) if reference else None,
    )


def writer() -> str:
    """Return what writes a page here; the same writer makes the same page, to the byte, of the same evidence."""
    return f"fedhealth {fedhealth.__version__}, matplotlib {matplotlib.__version__}"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}\u00a0%"


def _figure_words(figure: Figure) -> str:
    if figure.estimate is None or figure.low is None or figure.high is None:
        return figure.withheld or "too few patients to say"
    digits = 0 if figure.high - figure.low > 0.02 else 1
    low, high = f"{100 * figure.low:.{digits}f}", f"{100 * figure.high:.{digits}f}"
    return f"{_percent(figure.estimate, digits)} ({low} to {high})"


def _epsilon(epsilon: float) -> str:
    """Return two decimals, rounded up: a cost is never understated."""
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "no bound"


def _guesses_right(epsilon: float, delta: float) -> int:
    """Return how often in 100 a guess at an even chance can be right, rounded up.

    Source: an (epsilon, delta) mechanism allows a test no total variation above
    (e^epsilon - 1 + 2 delta) / (e^epsilon + 1); Kairouz, Oh and Viswanath, ICML 2015, Theorem 2.1.
    """
    odds = math.exp(-epsilon)
    return math.ceil(100 * min(1.0, (1 + delta * odds) / (1 + odds)))


def _runs_of(rounds: Iterable[int]) -> str:
    """Return round numbers in words: "1 to 7, 9"."""
    runs: list[list[int]] = []
    for number in sorted(set(rounds)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs) or "none"


def _forest_plot(sites: Sequence[tuple[str, Figure]], pooled: Figure) -> Markup:
    """Draw accuracy with its interval, a bar for each site and a diamond for all."""
    rows = [*sites, ("All hospitals together", pooled)]
    drawing, axes = _empty_rows([title for title, _ in rows])
    for row, (_, figure) in enumerate(rows):
        if figure.estimate is None or figure.low is None or figure.high is None:
            axes.text(0.02, row + 0.06, _figure_words(figure), va="center", style="italic", fontsize=_FONT, color=_INK)
            continue
        low, middle, high = figure.low, figure.estimate, figure.high
        _write_value(axes, row, _figure_words(figure))
        if row == len(rows) - 1:
            axes.fill([low, middle, high, middle], [row, row - 0.16, row, row + 0.16], color=_BLUE)
        else:
            axes.plot([low, high], [row, row], color=_BLUE, linewidth=1.8, clip_on=False)
            ends = [row - 0.1, row + 0.1, 0, row - 0.1, row + 0.1]
            axes.plot([low, low, math.nan, high, high], ends, color=_BLUE, clip_on=False)
            axes.plot([middle], [row], marker="s", markersize=6, color=_BLUE, clip_on=False)
    said = ". ".join(f"{title}: {_figure_words(figure)}" for title, figure in rows)
    return _inline_svg(drawing, "accuracy", "Accuracy on held-out patients, with 95\u00a0% intervals", said)


def _reference_plot(reference: Reference, titles: Mapping[str, str]) -> Markup:
    """Draw raw accuracy: each site alone beside the federation, and the federation beside pooled records."""
    rows = [
        (titles[site.site], "alone", site.local_alone.accuracy, site.federated.accuracy) for site in reference.sites
    ]
    pooled = reference.pooled_without_privacy.accuracy
    rows.append(("All hospitals together", "pooled without privacy", pooled, reference.federated.accuracy))
    drawing, axes = _empty_rows([title for title, *_ in rows])
    for row, (_, _, other, federated) in enumerate(rows):
        marker, sign = ("^", "△") if row == len(rows) - 1 else ("s", "□")
        _write_value(axes, row, f"{sign} {_percent(other)}  ● {_percent(federated)}")
        axes.plot([other, federated], [row, row], color=_AMBER, linewidth=1)
        axes.plot([other], [row], marker=marker, markersize=8, color=_AMBER, markerfacecolor=_SAND, clip_on=False)
        axes.plot([federated], [row], marker="o", markersize=5, color=_AMBER, clip_on=False)
    said = ". ".join(
        f"{title}: {name} {_percent(other)}, federated {_percent(federated)}" for title, name, other, federated in rows
    )
    return _inline_svg(drawing, "reference", "Raw accuracy on held-out patients", said)


def _empty_rows(titles: Sequence[str]) -> tuple[Drawing, Axes]:
    """Return a drawing with a row from 0 to 100 % below each title, the last one emphasised."""
    height = len(titles) * _ROW + _FOOT
    drawing = Drawing(figsize=(_WIDTH / 72, height / 72))
    drawing.patch.set_visible(False)
    left, right = 8 / _WIDTH, 112 / _WIDTH
    axes = drawing.add_axes((left, (_FOOT - 4) / height, 1 - left - right, len(titles) * _ROW / height))
    axes.patch.set_visible(False)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(titles) - 0.55, -0.55)
    axes.set_yticks([])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100\u00a0%"])
    axes.tick_params(axis="x", colors=_INK, labelsize=_FONT - 0.5, length=3)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    for row, title in enumerate(titles):
        axes.vlines([0, 0.25, 0.5, 0.75, 1], row - 0.17, row + 0.45, color=_FAINT, linewidth=0.7, zorder=0)
        weight = "bold" if row == len(titles) - 1 else "normal"
        short = textwrap.shorten(title, 52, placeholder=" …")
        axes.text(0, row - 0.27, short, va="baseline", fontweight=weight, fontsize=_FONT, color=_INK, parse_math=False)
    return drawing, axes


def _write_value(axes: Axes, row: int, words: str) -> None:
    axes.text(1.05, row, words, va="center", fontsize=_FONT, color=_INK, parse_math=False)


def _inline_svg(drawing: Drawing, name: str, title: str, description: str) -> Markup:
    """Return a drawing as an <svg> element for a page: no XML header, no metadata, no ids that two charts share."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fedhealth"}):
        written = io.StringIO()
        drawing.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = written.getvalue()
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    width, height = drawing.get_size_inches() * 72
    opening = Markup(
        '<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{name}-title {name}-desc">'
        '<title id="{name}-title">{title}</title><desc id="{name}-desc">{description}</desc>'
    ).format(width=width, height=height, name=name, title=title, description=description)
    return opening + Markup(body)  # noqa: S704 - matplotlib has escaped every text in it
