"""The drawings of a report: inline SVG whose colours, fonts and dark mode are the page's.

Invariants: a withheld figure is not drawn; every drawing says in words (`<desc>`) what it shows; equal arguments give
equal bytes.
"""

import io
import math
import re
import textwrap
from collections.abc import Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fedhealth.coordinator.wording import figure_words, number_words, percent
from fedhealth.learning.binary_figures import CalibrationBin, NetBenefit, RocPoint, ScoreFigures
from fedhealth.learning.figures import EffectFigure, Figure

INK, FAINT, BLUE, AMBER, SAND = "#1b2733", "#c3ccd6", "#0b5394", "#8a3b00", "#fff4e5"
_VARIABLES = {INK: "--ink", FAINT: "--line", BLUE: "--blue", AMBER: "--amber", SAND: "--sand"}
"""A drawing's colours, and the page's names for them."""

_WIDTH, _ROW, _FOOT, _FONT = 330, 40, 28, 10.5  # points; narrow enough to be read on a phone
_SQUARE, _LEFT, _BELOW = 300, 48, 42


def forest_plot(rows: Sequence[tuple[str, Figure]], name: str, title: str) -> Markup:
    """Draw figures with their intervals, a bar for each and a diamond for the last, which is of all together."""
    drawing, axes = _empty_rows([title for title, _ in rows])
    for row, (_, figure) in enumerate(rows):
        if figure.estimate is None or figure.low is None or figure.high is None:
            axes.text(0.02, row + 0.06, figure_words(figure), va="center", style="italic", fontsize=_FONT, color=INK)
            continue
        low, middle, high = figure.low, figure.estimate, figure.high
        _write_value(axes, row, figure_words(figure))
        if row == len(rows) - 1:
            axes.fill([low, middle, high, middle], [row, row - 0.16, row, row + 0.16], color=BLUE)
        else:
            axes.plot([low, high], [row, row], color=BLUE, linewidth=1.8, clip_on=False)
            ends = [row - 0.1, row + 0.1, 0, row - 0.1, row + 0.1]
            axes.plot([low, low, math.nan, high, high], ends, color=BLUE, clip_on=False)
            axes.plot([middle], [row], marker="s", markersize=6, color=BLUE, clip_on=False)
    said = ". ".join(f"{title}: {figure_words(figure)}" for title, figure in rows)
    return _inline_svg(drawing, name, title, said)


def effect_plot(rows: Sequence[tuple[str, EffectFigure]], name: str, title: str, unit: str) -> Markup | None:
    """Draw effects with their intervals about a line at 0, and below each the part that is noise; None without any."""
    known = [(row_title, figure) for row_title, figure in rows if _stated(figure)]
    if not known:
        return None
    reach = max(abs(end) for _, figure in known for end in _ends(figure)) * 1.1
    drawing, axes = _empty_rows([row_title for row_title, _ in rows], (-reach, reach))
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel(unit, fontsize=_FONT, color=INK, parse_math=False)
    for row, (_, figure) in enumerate(rows):
        if not _stated(figure) or figure.noise_half_width is None:
            axes.text(-reach, row + 0.06, figure_words(figure), va="center", style="italic", fontsize=_FONT, color=INK)
            continue
        low, middle, high = _ends(figure)
        _write_value(axes, row, f"{middle:.1f} ({low:.1f} to {high:.1f})".replace("-", "\u2212"))
        axes.plot([low, high], [row, row], color=BLUE, linewidth=1.8)
        axes.plot([middle], [row], marker="s", markersize=6, color=BLUE)
        noise = [middle - figure.noise_half_width, middle + figure.noise_half_width]
        axes.plot(noise, [row + 0.2, row + 0.2], color=AMBER, linewidth=3.2, solid_capstyle="butt")
    return _inline_svg(drawing, name, title, ". ".join(_said_of_effect(*each) for each in rows))


def paired_plot(rows: Sequence[tuple[str, str, str, float, float]], name: str, title: str) -> Markup:
    """Draw two raw shares in each row: title, sign and name of the first ("□" or "△"), the first, the federation's."""
    drawing, axes = _empty_rows([row_title for row_title, *_ in rows])
    for row, (_, sign, _, other, federated) in enumerate(rows):
        _write_value(axes, row, f"{sign} {percent(other)}  ● {percent(federated)}")
        axes.plot([other, federated], [row, row], color=AMBER, linewidth=1)
        marker = "^" if sign == "△" else "s"
        axes.plot([other], [row], marker=marker, markersize=8, color=AMBER, markerfacecolor=SAND, clip_on=False)
        axes.plot([federated], [row], marker="o", markersize=5, color=AMBER, clip_on=False)
    said = ". ".join(
        f"{row_title}: {what} {percent(other)}, federated {percent(federated)}"
        for row_title, _, what, other, federated in rows
    )
    return _inline_svg(drawing, name, title, said)


def roc_plot(scores: ScoreFigures) -> Markup | None:
    """Draw the known points of the ROC curve on the areas that their intervals span; None where there is none."""
    known = [point for point in scores.roc if _stated(point.sensitivity) and _stated(point.specificity)]
    if not known:
        return None
    drawing, axes = _empty_square("Healthy patients called ill", "Ill patients called ill, %")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for point in known:
        across, up = _ends(point.specificity), _ends(point.sensitivity)
        left, right = 1 - across[2], 1 - across[0]
        axes.fill([left, right, right, left], [up[0], up[0], up[2], up[2]], color=BLUE, alpha=0.14, linewidth=0)
    for point in known:
        place = 1 - _ends(point.specificity)[1], _ends(point.sensitivity)[1]
        axes.plot([place[0]], [place[1]], color=BLUE, marker="o", markersize=5, clip_on=False)
    return _inline_svg(drawing, "roc", "ROC curve, with 95\u00a0% intervals", _said_of_roc(known))


def calibration_plot(scores: ScoreFigures) -> Markup | None:
    """Draw the observed rate of each bin against its predicted chance; None where no bin's can be stated."""
    known = [each for each in scores.calibration if _stated(each.observed)]
    if not known:
        return None
    drawing, axes = _empty_square("Chance that the model gives", "Patients who were ill, %")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for each in known:
        low, middle, high = _ends(each.observed)
        centre = (each.low + each.high) / 2
        axes.plot([each.low, each.high], [middle, middle], color=BLUE, linewidth=1, alpha=0.55, clip_on=False)
        axes.plot([centre, centre], [low, high], color=BLUE, linewidth=1.8, clip_on=False)
        axes.plot([centre], [middle], color=BLUE, marker="s", markersize=5.5, clip_on=False)
    return _inline_svg(drawing, "calibration", "Calibration, with 95\u00a0% intervals", _said_of_calibration(known))


def decision_plot(scores: ScoreFigures) -> Markup | None:
    """Draw net benefit over thresholds, of the model and of treating everybody; None where nothing can be stated."""
    known = [point for point in scores.net_benefit if _stated(point.model)]
    if not known:
        return None
    drawing, axes = _empty_square("Threshold: who has a higher chance is treated", "Net benefit, per 100 patients")
    lowest, highest = min(0.0, *(_ends(point.model)[0] for point in known)), max(_ends(p.model)[2] for p in known)
    axes.set_ylim(max(-0.3, lowest) - 0.05, highest + 0.05)
    axes.plot([0, 1], [0, 0], color=INK, linewidth=1.2)
    for colour, style, marker, figures in (
        (INK, (0, (5, 2)), "", [(point.threshold, point.treat_all) for point in scores.net_benefit]),
        (BLUE, "-", "o", [(point.threshold, point.model) for point in scores.net_benefit]),
    ):
        stated = [(place, *_ends(figure)) for place, figure in figures if _stated(figure)]
        if not stated:
            continue
        places, low, middle, high = zip(*stated, strict=True)
        axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(places, middle, color=colour, linestyle=style, marker=marker, markersize=4.5, linewidth=1.6)
    return _inline_svg(drawing, "decision", "Decision curve, with 95\u00a0% intervals", _said_of_decisions(known))


def _said_of_roc(points: Sequence[RocPoint]) -> str:
    return ". ".join(
        f"Above {percent(point.threshold)}: sensitivity {figure_words(point.sensitivity)}, "
        f"specificity {figure_words(point.specificity)}"
        for point in points
    )


def _said_of_calibration(bins: Sequence[CalibrationBin]) -> str:
    return ". ".join(
        f"Chance {percent(each.low)} to {percent(each.high)}: {figure_words(each.observed)} were ill" for each in bins
    )


def _said_of_decisions(points: Sequence[NetBenefit]) -> str:
    return ". ".join(
        f"At {percent(point.threshold)}: model {figure_words(point.model)}, everybody {figure_words(point.treat_all)}"
        for point in points
    )


def _said_of_effect(title: str, figure: EffectFigure) -> str:
    parts = (
        f", of which noise {figure.noise_half_width:.2f} to each side" if figure.noise_half_width is not None else ""
    )
    return f"{title}: {number_words(figure)}{parts}"


def _stated(figure: Figure) -> bool:
    return figure.estimate is not None


def _ends(figure: Figure) -> tuple[float, float, float]:
    assert figure.low is not None and figure.estimate is not None and figure.high is not None  # noqa: S101
    return figure.low, figure.estimate, figure.high


def _empty_rows(titles: Sequence[str], reach: tuple[float, float] | None = None) -> tuple[Drawing, Axes]:
    """Return a drawing with a row below each title: of shares, the last row emphasised; or of numbers in a range."""
    foot = _FOOT if reach is None else _FOOT + 12
    height = len(titles) * _ROW + foot
    left, right = 8 / _WIDTH, (112 if reach is None else 124) / _WIDTH
    area = (left, (foot - 4) / height, 1 - left - right, len(titles) * _ROW / height)
    drawing, axes = _empty((_WIDTH, height), area)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if reach is None else [reach[0] / 1.1, 0.0, reach[1] / 1.1]
    axes.set_xlim(*((0, 1) if reach is None else reach))
    axes.set_ylim(len(titles) - 0.55, -0.55)
    axes.set_yticks([])
    words = ["0", "25", "50", "75", "100\u00a0%"] if reach is None else [f"{tick:.2g}" for tick in ticks]
    axes.set_xticks(ticks, [word.replace("-", "\u2212") for word in words])
    axes.spines["left"].set_visible(False)
    for row, title in enumerate(titles):
        axes.vlines(ticks, row - 0.17, row + 0.45, color=FAINT, linewidth=0.7, zorder=0)
        weight = "bold" if reach is None and row == len(titles) - 1 else "normal"
        short = textwrap.shorten(title, 52, placeholder=" …")
        left_end = axes.get_xlim()[0]
        axes.text(
            left_end, row - 0.27, short, va="baseline", fontweight=weight, fontsize=_FONT, color=INK, parse_math=False
        )
    return drawing, axes


def _empty_square(across: str, up: str) -> tuple[Drawing, Axes]:
    """Return a drawing with both axes from 0 to 100."""
    area = (_LEFT / _WIDTH, _BELOW / _SQUARE, 1 - (_LEFT + 18) / _WIDTH, 1 - (_BELOW + 12) / _SQUARE)
    drawing, axes = _empty((_WIDTH, _SQUARE), area)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100\u00a0%"])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}".replace("-", "\u2212"))
    axes.set_xlabel(across, fontsize=_FONT, color=INK)
    axes.set_ylabel(up, fontsize=_FONT, color=INK)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    return drawing, axes


def _empty(points: tuple[float, float], area: tuple[float, float, float, float]) -> tuple[Drawing, Axes]:
    drawing = Drawing(figsize=(points[0] / 72, points[1] / 72))
    drawing.patch.set_visible(False)
    axes = drawing.add_axes(area)
    axes.patch.set_visible(False)
    axes.tick_params(colors=INK, labelsize=_FONT - 0.5, length=3)
    axes.spines[["right", "top"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    return drawing, axes


def _write_value(axes: Axes, row: int, words: str) -> None:
    low, high = axes.get_xlim()
    axes.text(low + 1.05 * (high - low), row, words, va="center", fontsize=_FONT, color=INK, parse_math=False)


def _inline_svg(drawing: Drawing, name: str, title: str, description: str) -> Markup:
    """Return a drawing as an <svg> element for a page: no XML header, no metadata, no ids that two charts share."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"fedhealth {name}"}):
        written = io.StringIO()
        drawing.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = written.getvalue()
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(f": {colour}", f": var({variable})")
    width, height = drawing.get_size_inches() * 72
    opening = Markup(
        '<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{name}-title {name}-desc">'
        '<title id="{name}-title">{title}</title><desc id="{name}-desc">{description}</desc>'
    ).format(width=width, height=height, name=name, title=title, description=description)
    return opening + Markup(body)  # noqa: S704 - matplotlib has escaped every text in it
