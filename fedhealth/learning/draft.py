"""A first protocol file, for a person to finish: an example, or drafted from a table that the researcher holds.

What only a person can say is left open, which lets the file be simulated and keeps it from being signed
(`open_texts.refuse_open_texts`). That goes for the unit of every number that was drafted from a table, because a range
that was taken from patients may tell who they are.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

import jinja2

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.open_texts import OPEN
from fedhealth.records.cells import number_of
from fedhealth.records.molecules import look_like_smiles
from fedhealth.records.table import Table
from fedhealth.study.coded_cohort import CodedCohort, cohort_toml
from fedhealth.study.molecules import DESCRIPTORS

MAX_WORDS = 20
"""A column of more words than this is left out of a draft: it is free text, or a name."""

EndpointKind = Literal["binary", "category", "classes", "number"]

_YES = frozenset({"yes", "y", "true", "t", "1", "positive", "pos", "oui", "case", "ill", "dead", "died", "event"})
_FEWEST_NUMBERS = 3
_LARGEST = 1e9
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("fedhealth.learning", "."),
    autoescape=False,  # noqa: S701 - it writes TOML, and every text goes through a filter of its own
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True)
class DraftEndpoint:
    """What is predicted.

    Attributes:
        column: that holds it.
        kind: of the endpoint, as in a protocol.
        above: of yes or no from numbers, above what it is yes.
        positive: of yes or no from words, those that mean yes.
        negative: those that mean no.
        classes: of several classes, their words.
        range: of a number.
    """

    column: str
    kind: EndpointKind = "binary"
    above: float = 0
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    range: tuple[float, float] = (0, 1)


@dataclass(frozen=True)
class DraftColumns:
    """What a draft takes from a table.

    Attributes:
        endpoint: what is predicted.
        features: as in a protocol, one mapping each.
        left_out: columns that are no features, each with the reason.
        max_records: the most records of one patient.
    """

    endpoint: DraftEndpoint
    features: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...] = ()
    max_records: int = 1


EXAMPLE = DraftColumns(
    endpoint=DraftEndpoint("outcome"),
    features=(
        {"kind": "number", "column": "age", "unit": "years", "range": (0, 100), "impute": 50},
        {"kind": "category", "column": "sex", "categories": ("female", "male")},
    ),
)


@dataclass(frozen=True)
class TableRoles:
    """Columns of a table that are no features.

    Attributes:
        endpoint: what is predicted.
        positive: the word that means yes, or the number above which it is yes; "" where it is plain.
        kind: of the endpoint; None where it can be told from the values.
        patient: names the patient; "" where every row is one.
        ignored: others to leave out, such as the hospital.
    """

    endpoint: str
    positive: str = ""
    kind: EndpointKind | None = None
    patient: str = ""
    ignored: Sequence[str] = field(default=())


def draft_protocol(
    name: str, task: str, data_set: str, columns: DraftColumns, cohort: CodedCohort | None = None
) -> str:
    """Return the text of a protocol file that is valid as it stands.

    Args:
        name: 1 to 63 lower-case letters, digits, hyphens.
        task: kind of study.
        data_set: what hospitals call the table.
        columns: endpoint and features.
        cohort: whom it is of, by codes; None for everybody in the table.
    """
    text = _ENVIRONMENT.get_template("draft.toml.jinja").render(
        name=name,
        title=name.replace("-", " ").capitalize(),
        task=task,
        data_set=data_set,
        max_records=columns.max_records,
        endpoint=columns.endpoint,
        features=columns.features,
        left_out=columns.left_out,
        descriptors=DESCRIPTORS,
        cohort=cohort_toml(cohort, "cohort") if cohort else "",
        from_data=columns is not EXAMPLE,
        # Half of what `fedhealth study check` names as the most that cannot overshoot.
        regression_rate=float(f"{1 / (1 + len(columns.features)):.2g}"),
    )
    return text.rstrip() + "\n"


def columns_of(table: Table, roles: TableRoles) -> DraftColumns:
    """Draft endpoint and features from a table that the researcher may look at.

    Args:
        table: as read.
        roles: which columns are no features.

    Raises:
        ConfigInvalid: a column is not there, or nobody can tell which value of the endpoint means yes.
    """
    for column in (roles.endpoint, *([roles.patient] if roles.patient else []), *roles.ignored):
        if column not in table.columns:
            near = get_close_matches(column, table.columns, n=1)
            raise ConfigInvalid(
                f"the data file {table.path} has no column '{column}'",
                got=", ".join(table.columns[:20]),
                next_step=f"Did you mean '{near[0]}'?" if near else "Name one of these.",
            )
    features, left_out = [], []
    for place, column in enumerate(table.columns):
        if column in (roles.endpoint, roles.patient, *roles.ignored):
            continue
        feature = _feature(column, [row[place] for _, row in table.rows])
        if isinstance(feature, str):
            left_out.append(f"{column} ({feature})")
        else:
            features.append(feature)
    if not features:
        raise ConfigInvalid(f"the data file {table.path} has no column that could be a feature")
    most = 1
    if roles.patient:
        place = table.columns.index(roles.patient)
        most = min(1000, max(Counter(row[place] for _, row in table.rows).values()))
    return DraftColumns(_endpoint(table, roles), tuple(features), tuple(left_out), most)


def _endpoint(table: Table, roles: TableRoles) -> DraftEndpoint:
    place = table.columns.index(roles.endpoint)
    words = sorted({row[place] for _, row in table.rows} - {""})
    numbers = [number for number in map(number_of, words) if number is not None]
    known = sorted({number for number in numbers if math.isfinite(number) and abs(number) <= _LARGEST})
    is_number = len(known) >= 2 and not any(map(math.isnan, numbers))
    kind = roles.kind or _kind_of(words, known if is_number else [], roles.positive)
    if kind == "number" and is_number and known[-1] - known[0] >= 1 / _LARGEST:
        return DraftEndpoint(roles.endpoint, kind, range=_public_range(known[0], known[-1]))
    if kind == "classes" and 3 <= len(words) <= MAX_WORDS:
        return DraftEndpoint(roles.endpoint, kind, classes=tuple(words))
    if kind == "binary" and is_number:
        plain = known[0] if len(known) == 2 else None
        above = number_of(roles.positive) if roles.positive else plain
        if above is not None and abs(above) <= _LARGEST:
            return DraftEndpoint(roles.endpoint, kind, above=_plain(above))
    if kind == "category" and len(words) <= MAX_WORDS:
        positive = [word for word in words if word == roles.positive or (not roles.positive and word.lower() in _YES)]
        negative = [word for word in words if word not in positive]
        if positive and negative:
            return DraftEndpoint(roles.endpoint, kind, positive=tuple(positive), negative=tuple(negative))
    raise ConfigInvalid(
        f"nobody can tell which values of '{roles.endpoint}' mean yes",
        got=f"{len(words)} different values"
        + (f" and --positive {roles.positive}" if roles.positive else "")
        + (f" and --kind {roles.kind}" if roles.kind else ""),
        wanted="the word that means yes, or the number above which it is yes; or several classes, or a quantity",
        next_step="Say it: --positive VALUE, or --kind classes (three words or more), or --kind number.",
    )


def _kind_of(words: Sequence[str], numbers: Sequence[float], positive: str) -> EndpointKind:
    """Return what an endpoint is that nobody has said more of; few numbers may be codes, and stay yes or no."""
    if numbers:
        return "number" if len(numbers) > MAX_WORDS and not positive else "binary"
    several = len(words) >= 3 and not positive and not any(word.lower() in _YES for word in words)
    return "classes" if several else "category"


def _feature(column: str, cells: Sequence[str]) -> dict[str, Any] | str:
    """Return a feature, or why the column is none."""
    numbers = [number_of(cell) for cell in cells]
    known = [number for number in numbers if number is not None]
    words = sorted({cell for cell, number in zip(cells, numbers, strict=True) if number is not None})
    if len(words) < 2:
        return "always the same"
    if all(math.isfinite(number) for number in known) and len(set(known)) >= _FEWEST_NUMBERS:
        if max(map(abs, known)) > _LARGEST or max(known) - min(known) < 1 / _LARGEST:
            return "numbers of no usual size"
        low, high = _public_range(min(known), max(known))
        middle = sorted(known)[len(known) // 2]
        return {
            "kind": "number",
            "column": column,
            "unit": OPEN,
            "range": (low, high),
            "impute": _plain(float(f"{middle:.2g}") if low <= float(f"{middle:.2g}") <= high else low),
        }
    if len(words) > MAX_WORDS and look_like_smiles(words):
        return {"kind": "molecule", "column": column}
    if len(words) > MAX_WORDS:
        return f"{len(words)} different words"
    return {"kind": "category", "column": column, "categories": tuple(words)}


def _public_range(low: float, high: float) -> tuple[float, float]:
    """Return both ends outwards to one figure of their distance, so that no patient's value stands in the file."""
    step = 10.0 ** math.floor(math.log10(high - low))
    return _plain(math.floor(low / step) * step), _plain(math.ceil(high / step) * step)


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else float(f"{number:.12g}")


def _toml(value: object) -> str:
    """Return a text, or a list of texts and numbers, as TOML writes it: JSON's form is one of TOML's."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


_ENVIRONMENT.filters["toml"] = _toml
