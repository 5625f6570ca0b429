"""Whether a table holds what a study asks for, says anything there, or gives the answer away; for the administrator.

A feature that encodes the label (a code of the diagnosis, a drug that is given only after it, a value that was
measured in the ill alone) makes a model that looks perfect and is useless. A protocol cannot declare that; it shows
in the data, as a feature that separates the two outcomes all by itself.

Everything here rests on patients and is for the hospital's own terminal; of a problem the rows are named, never a
value. A word is shown only where it is one of the protocol's own but for case and blanks.

Source: the area under the ROC curve as a rank statistic, Hanley and McNeil 1982.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhealth.records.cells import is_blank, is_unreadable, label_of, meets, number_of
from fedhealth.records.columns import Problem, cells_of
from fedhealth.records.image_fit import find_image_problems
from fedhealth.records.modality_fit import find_modality_problems
from fedhealth.records.molecules import read_molecule
from fedhealth.records.survival_fit import find_follow_up_problems
from fedhealth.records.table import Table, columns_of, inputs_of, is_left_out, is_missing, number_columns
from fedhealth.records.trial_fit import find_trial_problems
from fedhealth.study.diagnosis_endpoints import ClassesEndpoint, NumberEndpoint
from fedhealth.study.features import CategoryCondition, CategoryFeature, Feature, NumberFeature
from fedhealth.study.images import ImageFeature
from fedhealth.study.modalities import absent_from
from fedhealth.study.molecules import MAX_SMILES, MoleculeFeature
from fedhealth.study.protocol import Study
from fedhealth.study.trial_endpoint import TrialEndpoint

GIVES_AWAY = 0.99
"""Area under the ROC curve of one feature alone, from which on it may encode the label."""

_LEAST_OF_EACH = 8
"""Records of either outcome below which nothing is said: 8 and 8 fall apart by chance once in 6,435 orders."""

_MOST_CODES = 10
_RARE = 5


@dataclass(frozen=True)
class Giveaway:
    """A feature that separates the two outcomes nearly alone.

    Attributes:
        column: of the feature.
        by: by its value, or by whether there is one.
        area: under the ROC curve, in [0.5, 1].
        label: what it separates: the outcome, or in a trial, where nothing known before may, the arm.
    """

    column: str
    by: str
    area: float
    label: str = "outcome"

    def __str__(self) -> str:
        """Say it in one line, for a person."""
        return f"column '{self.column}' nearly tells the {self.label} by {self.by} alone (AUC {self.area:.2f})"


def find_giveaways(table: Table, study: Study) -> tuple[Giveaway, ...]:
    """Return the features of a study that may encode its label in a table; those that may not are left out.

    Args:
        table: the whole table; columns that it lacks are passed over.
        study: its endpoint, cohort and features are looked at.
    """
    found: dict[tuple[str, str], Giveaway] = {}
    cohort = _cohort_of(table, study)
    for outcome in _outcomes(study, cohort.labels):
        for feature, cells in cohort.cells.items():
            for each in _ways(feature, cells, outcome):
                known = found.get((each.column, each.by), each)
                found[each.column, each.by] = max(known, each, key=lambda giveaway: giveaway.area)
    separates = "arm" if isinstance(study.endpoint, TrialEndpoint) else "outcome"
    return tuple(replace(each, label=separates) for each in found.values() if each.area >= GIVES_AWAY)


def find_uniform(table: Table, study: Study) -> tuple[Problem, ...]:
    """Return what is the same in all records of a study in a table, and so says nothing there.

    An outcome that all have, a feature that all have alike or that nobody has, and rules on missing values that leave
    many out. The rules stay the protocol's, the same at every site; whether to take part is the administrator's choice.
    """
    return tuple(_uniform(study, _cohort_of(table, study), table.folder))


@dataclass(frozen=True)
class _Cohort:
    """The records of a table that are in a study, and those that its rules on missing values leave out.

    Attributes:
        labels: readable ones, shape (records, numbers of a label).
        cells: of each feature whose column the table has, one for each label.
        left_out: how many records have no value of a feature that asks for one, by its column.
        met: how many records have an outcome and meet the conditions, left out or not.
    """

    labels: NDArray[np.float64]
    cells: dict[Feature, list[str]]
    left_out: dict[str, int]
    met: int


def _cohort_of(table: Table, study: Study) -> _Cohort:
    there = set(table.columns)
    features = [feature for feature in study.features if feature.column in there]
    cells: dict[Feature, list[str]] = {feature: [] for feature in features}
    left_out, labels, met = Counter[str](), list[tuple[float, ...]](), 0
    if not {*study.endpoint.columns, *(each.column for each in study.include)} <= there:
        return _Cohort(np.zeros((0, study.endpoint.label_width)), cells, {}, 0)
    place = {column: table.columns.index(column) for column in columns_of(study) if column in there}
    for _, row in table.rows:
        label = label_of(study.endpoint, [row[place[column]] for column in study.endpoint.columns])
        if label is None or not all(meets(each, row[place[each.column]]) for each in study.include):
            continue
        met += 1
        without = [each.column for each in features if is_left_out(each, row[place[each.column]])]
        left_out.update(without)
        if study.model.modalities and all(is_missing(each, row[place[each.column]]) for each in features):
            continue
        if not without and not any(map(math.isnan, label)):
            labels.append(label)
            for feature in features:
                cells[feature].append(row[place[feature.column]])
    return _Cohort(np.array(labels).reshape(-1, study.endpoint.label_width), cells, dict(left_out), met)


def _outcomes(study: Study, labels: NDArray[np.float64]) -> Iterator[NDArray[np.bool_]]:
    """Yield ways of dividing records by their outcome: each class from the others, or a quantity at its median."""
    first = labels[:, 0]
    if isinstance(study.endpoint, ClassesEndpoint):
        yield from (first == place for place in range(len(study.endpoint.classes)))
    elif isinstance(study.endpoint, NumberEndpoint):
        yield first > (np.median(first) if first.size else 0.0)
    else:
        yield first > 0


def _uniform(study: Study, cohort: _Cohort, folder: Path) -> Iterator[Problem]:
    for column, records in cohort.left_out.items():
        yield Problem(
            "warning",
            column,
            f"{records / cohort.met:.1%} of the records have no value of it, and the protocol leaves those out",
            "Ask whether it can be looked up; or whether to take part.",
        )
    told = study.task == "diagnosis"  # of follow-up and of trials, modules of their own say it
    if not len(cohort.labels):
        if told:
            yield Problem("warning", study.endpoint.column, "no record is in the study", "Do not take part.")
        return
    if told and len(cohort.labels) > 1 and (cohort.labels == cohort.labels[0]).all():
        yield Problem(
            "warning",
            study.endpoint.column,
            "all records of the study have one and the same outcome",
            "Ask the researcher whether this hospital's patients can add anything.",
        )
    for feature, cells in cohort.cells.items():
        if all(is_missing(feature, cell) for cell in cells):
            if isinstance(feature, MoleculeFeature | ImageFeature):
                continue  # `_no_molecules` and `find_image_problems` say so
            measured = (
                "nothing is measured" if isinstance(feature, NumberFeature) else "nothing that the study reads is"
            )
            what = f"{measured} in any record: all count as missing"
        elif len(cells) > 1 and len({_input_of(feature, cell, folder) for cell in cells}) == 1:
            what = "all records of the study have the same value"
        else:
            continue
        yield Problem("warning", feature.column, what, "It says nothing here; ask whether to take part.")


def _input_of(feature: Feature, cell: str, folder: Path) -> tuple[object, ...]:
    """Return what a model is given of a cell; of a molecule or an image its text, which costs less."""
    by_text = isinstance(feature, MoleculeFeature | ImageFeature)
    return (cell,) if by_text else tuple(inputs_of(feature, cell, folder))


def find_misfits(table: Table, study: Study) -> tuple[Problem, ...]:
    """Return all that keeps a study from using a table as it was meant, or may.

    Args:
        table: read without `strict`, so that everything wrong can be told at once.
        study: the protocol.
    """
    return tuple(_misfits(table, study))


def _misfits(table: Table, study: Study) -> Iterator[Problem]:
    there = set(table.columns)
    absent = {column for each in absent_from(there, study.model.modalities) for column in each.columns}
    for column in columns_of(study):
        if column not in there | absent:
            yield Problem("error", column, "the study asks for it, the table lacks it", "Add it, or do not take part.")
    for column in number_columns(study):
        lines = column in there and tuple(line for line, cell in cells_of(table, column) if is_unreadable(cell))
        if lines:
            yield Problem("error", column, "the study wants numbers and there is text", "Correct the cells.", lines)
    for column, words in _words_of(study).items():
        if column in there:
            asked = column in study.endpoint.columns or any(each.column == column for each in study.include)
            excluding = any(each.column == column and each.missing == "exclude" for each in study.features)
            becomes = "the record is left out" if asked or excluding else "it counts as missing"
            yield from _strange_words(table, column, words, becomes)
    for feature in study.features:
        if isinstance(feature, NumberFeature) and feature.column in there:
            yield from _out_of_range(table, feature)
        elif isinstance(feature, MoleculeFeature) and feature.column in there:
            yield from _no_molecules(table, feature)
    yield from find_follow_up_problems(table, study)
    yield from find_trial_problems(table, study)
    yield from find_modality_problems(table, study)
    yield from find_image_problems(table, study)
    if isinstance(study.endpoint, NumberEndpoint) and study.endpoint.column in there:
        yield from _out_of_range(table, study.endpoint)
    yield from find_uniform(table, study)
    for giveaway in find_giveaways(table, study):
        yield Problem("warning", giveaway.column, str(giveaway), "Ask the researcher how it comes about.")


def _words_of(study: Study) -> dict[str, set[str]]:
    """Return the words that a study knows in each column of words."""
    words: defaultdict[str, set[str]] = defaultdict(set)
    for part in (*study.features, *study.include):
        if isinstance(part, CategoryFeature):
            words[part.column] |= set(part.categories)
        elif isinstance(part, CategoryCondition):
            words[part.column] |= set(part.any_of)
    for column, known in study.endpoint.words.items():
        words[column] |= known
    return words


def _strange_words(table: Table, column: str, words: set[str], becomes: str) -> Iterator[Problem]:
    plain = {_plain(word): word for word in words}
    otherwise: defaultdict[str, list[int]] = defaultdict(list)
    unknown = []
    for line, cell in cells_of(table, column):
        if cell in words or is_blank(cell):
            continue
        if _plain(cell) in plain:
            otherwise[plain[_plain(cell)]].append(line)
        else:
            unknown.append(line)
    for word, lines in sorted(otherwise.items()):
        yield Problem(
            "warning",
            column,
            f"'{word}' is spelled otherwise than in the study; {becomes}",
            f"Write it '{word}'.",
            tuple(lines),
        )
    if unknown:
        yield Problem(
            "warning",
            column,
            f"{_share(len(unknown), table)} of the rows have a word that the study does not know; {becomes}",
            "Compare the words with the protocol's.",
            tuple(unknown),
        )


def _out_of_range(table: Table, feature: NumberFeature | NumberEndpoint) -> Iterator[Problem]:
    low, high = feature.range
    numbers = [(line, number_of(cell)) for line, cell in cells_of(table, feature.column)]
    measured = [(line, value) for line, value in numbers if value is not None and value not in feature.missing_values]
    outside = tuple(line for line, value in measured if value < low or value > high)
    if outside:
        yield Problem(
            "warning",
            feature.column,
            f"{_share(len(outside), table)} of the rows lie outside the public range {low:g} to {high:g}, and are "
            "clamped to it",
            f"Check the unit ({feature.unit}); if it is right, tell the researcher that the range is narrow.",
            outside,
        )


def _no_molecules(table: Table, feature: MoleculeFeature) -> Iterator[Problem]:
    filled = [(line, cell) for line, cell in cells_of(table, feature.column) if not is_blank(cell)]
    unread = tuple(line for line, cell in filled if read_molecule(cell) is None)
    if unread:
        yield Problem(
            "warning",
            feature.column,
            f"{_share(len(unread), table)} of the rows have no structure that can be read; it counts as missing",
            f"Write it as SMILES of at most {MAX_SMILES} characters, with nothing behind.",
            unread,
        )
    if len(unread) == len(filled) and table.rows:
        yield Problem("warning", feature.column, "no structure in any row", "Ask whether to take part.")


def _ways(feature: Feature, cells: Sequence[str], ill: NDArray[np.bool_]) -> Iterator[Giveaway]:
    """Yield how well a feature separates the outcomes, by its value and by whether there is one."""
    if isinstance(feature, CategoryFeature):
        groups = [cell if cell in feature.categories else "" for cell in cells]
        if (area := _area_of_groups(groups, ill)) is not None:
            yield Giveaway(feature.column, "its value", area)
        return
    if isinstance(feature, MoleculeFeature):
        if (area := _area_of_groups([read_molecule(cell) is not None for cell in cells], ill)) is not None:
            yield Giveaway(feature.column, "whether there is a structure", area)
        return
    if isinstance(feature, ImageFeature):
        if (area := _area_of_groups([is_blank(cell) for cell in cells], ill)) is not None:
            yield Giveaway(feature.column, "whether there is an image", area)
        return
    numbers = [number_of(cell) for cell in cells]
    there = np.array(
        [value is not None and value == value and value not in feature.missing_values for value in numbers], np.bool_
    )
    if (area := _area_of_groups(there.tolist(), ill)) is not None:
        yield Giveaway(feature.column, "whether it was measured", area)
    values = np.array([value for value, known in zip(numbers, there, strict=True) if known], dtype=np.float64)
    codes = len(np.unique(values)) <= _MOST_CODES
    area = _area_of_groups(values.tolist(), ill[there]) if codes else _area(values, ill[there])
    if area is not None:
        yield Giveaway(feature.column, "its value", max(area, 1 - area))


def _area_of_groups(groups: Sequence[object], ill: NDArray[np.bool_]) -> float | None:
    """Return the area with each group scored by the share of the ill in it; rare groups are one."""
    size = Counter(groups)
    merged = [group if size[group] >= _RARE else None for group in groups]
    members = Counter(merged)
    with_it = Counter(group for group, is_ill in zip(merged, ill.tolist(), strict=True) if is_ill)
    return _area(np.array([with_it[group] / members[group] for group in merged]), ill)


def _area(scores: NDArray[np.float64], ill: NDArray[np.bool_]) -> float | None:
    """Return the probability that an ill record scores above a healthy one, ties counting half; None if too few."""
    positives = int(ill.sum())
    negatives = len(ill) - positives
    if min(positives, negatives) < _LEAST_OF_EACH:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[place][ill].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _plain(word: str) -> str:
    return " ".join(word.casefold().split())


def _share(count: int, table: Table) -> str:
    return f"{count / len(table.rows):.1%}"
