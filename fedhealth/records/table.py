"""Read a hospital's table and turn it into what a model takes.

Scaling uses the protocol's public ranges only. A cell is a number, a word, or blank; a number outside its range is
clamped; a word outside its categories counts as missing, and so does a structure that cannot be read. Before a study is
approved, text in a numeric column or a ragged line stops everything (`strict`), with the line and the column, never the
value. After approval the gate reads on: one patient's broken record must not change what the other side can see, so
the cell becomes NaN, and the mechanism counts that patient as zero.

Invariant: nothing here depends on more than one patient at a time, but for the order of the rows.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedhealth.errors import DataUnusable
from fedhealth.records.cells import is_before_follow_up, is_blank, is_unreadable, label_of, meets, number_of, scaled
from fedhealth.records.image_inputs import image_inputs, why_unreadable
from fedhealth.records.molecules import molecule_inputs, read_molecule
from fedhealth.records.split import SIDE_WORDS, is_held_out, stated_sides
from fedhealth.study.features import CategoryFeature, Feature, NumberCondition, NumberFeature
from fedhealth.study.images import ImageFeature
from fedhealth.study.modalities import absent_from
from fedhealth.study.molecules import MoleculeFeature
from fedhealth.study.protocol import Study
from fedhealth.study.trial_endpoint import TrialEndpoint

MAX_CELLS = 2**26
"""Numbers that a gate holds of one study at once, 512 MiB."""

MAX_PIXEL_CELLS = 2**28
"""The same where some are pixels, in single precision: 1 GiB, 1,024 volumes of 64 x 64 x 64."""

MAX_TABLE_CELLS = 2**26
"""Cells of the largest table that is read: as text, some gigabytes."""

csv.field_size_limit(2**31 - 1)  # a long cell is one patient's, and must not stop everybody


@dataclass(frozen=True)
class Records:
    """The records of one side of a data set.

    Attributes:
        features: shape (records, study.dimension), within [-1, 1], or NaN where a cell is unreadable; in single
            precision where some are pixels.
        labels: shape (records,), or (records, numbers of a label) where those are several; NaN where the endpoint is
            unreadable.
        patients: shape (records,), for each record the index of its patient, 0 to patient_count - 1.
        patient_count: number of patients; it must not leave the gate.
    """

    features: NDArray[np.floating[Any]]
    labels: NDArray[np.float64]
    patients: NDArray[np.int64]
    patient_count: int


@dataclass(frozen=True)
class Table:
    """A data set as read.

    Attributes:
        path: where it was.
        columns: its header.
        rows: number and cells of each row.
        ragged: numbers of the rows left out because they are not as long as the header.
        row_word: what the numbers count: lines of a file, or rows.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    ragged: tuple[int, ...] = ()
    row_word: str = "line"

    @property
    def folder(self) -> Path:
        """Where the files lie that cells name."""
        return self.path.parent


def read_table(path: Path, *, strict: bool) -> Table:
    """Read a CSV file with a header.

    Args:
        path: UTF-8, comma-separated, one header line.
        strict: refuse a row of another length, instead of leaving it out, and bytes that are not UTF-8.

    Raises:
        DataUnusable: missing, unreadable, without a header, or with quotes that do not pair: then nobody can say
            where one patient's row ends. Or `strict` and not UTF-8, without rows, or a row of another length.
            Nothing of a value is shown.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "strict" if strict else "surrogateescape")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = checked_header(next(reader, []), path)
        rows: list[tuple[int, tuple[str, ...]]] = []
        ragged: list[int] = []
        for row in reader:
            if len(row) == len(header):
                rows.append((reader.line_num, tuple(cell.strip() for cell in row)))
                if len(rows) * len(header) > MAX_TABLE_CELLS:
                    raise too_many_cells(path)
            elif row:
                ragged.append(reader.line_num)
                if strict:
                    raise DataUnusable(
                        f"line {reader.line_num} of {path} is not like the header",
                        got=f"{len(row)} cells",
                        wanted=f"{len(header)}",
                        next_step="Correct the line or export the file again.",
                    )
    except OSError as error:
        raise DataUnusable(
            f"the data file {path} cannot be read",
            got=error.strerror or "an error",
            next_step="Check `file` in site.toml and the permissions of the gate's user.",
        ) from error
    except UnicodeDecodeError as error:
        raise DataUnusable(
            f"the data file {path} is not in UTF-8",
            got=f"a byte that is not, near line {error.object[: error.start].count(10) + 1}",
            next_step="Export it again as CSV, UTF-8, with a header.",
        ) from error
    except csv.Error as error:
        raise DataUnusable(
            f"the data file {path} is not a CSV file",
            got=f"quotes that do not pair, near line {reader.line_num}",
            next_step="Export it again as CSV: a quote inside a cell is doubled.",
        ) from error
    if strict and not rows:
        raise DataUnusable(f"the data file {path} has no rows", next_step="Export it again.")
    return Table(path, header, tuple(rows), tuple(ragged))


def checked_header(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the names of a table's columns, stripped.

    Raises:
        DataUnusable: there is none, or one twice.
    """
    header = tuple(name.strip() for name in names)
    if not header or len(set(header)) != len(header):
        raise DataUnusable(f"the header of {path} is empty or names a column twice", next_step="Correct the header.")
    return header


def too_many_cells(path: Path) -> DataUnusable:
    """Return the refusal of a table that does not fit a gate's memory."""
    return DataUnusable(
        f"the data file {path} is too large for a gate",
        got=f"more than {MAX_TABLE_CELLS:,} cells",
        next_step="Leave out columns that no study will ask for.",
    )


def prepare_records(
    table: Table,
    study: Study,
    patient_column: str,
    split_key: bytes,
    split_column: str | None = None,
    *,
    strict: bool,
) -> tuple[Records, Records]:
    """Return the training side and the held-out side of a table, as the study wants them.

    Rows without an endpoint or without a patient are left out, those that miss a condition of the cohort, those without
    a value that a feature asks for or without any modality, and a patient's rows beyond the study's
    `max_records_per_patient`; unless `strict`, also the patients of whom the split column does not say one side.

    Args:
        table: the whole table.
        study: names columns, ranges and the held-out fraction.
        patient_column: names the patient.
        split_key: 32 bytes.
        split_column: says in place of the key who is held out; of public data alone.
        strict: refuse a cell that must be a number and is not, instead of reading it as NaN, and a patient on no side.

    Raises:
        DataUnusable: a column is missing; or `strict` and a cell cannot be used.
    """
    absent = {column for each in absent_from(table.columns, study.model.modalities) for column in each.columns}
    wanted = [column for column in columns_of(study) if column not in absent]
    wanted += [patient_column, *([split_column] if split_column else ())]
    if missing := [column for column in wanted if column not in table.columns]:
        raise DataUnusable(
            f"the data file {table.path} lacks what study '{study.name}' asks for",
            # Without a header the first line is a patient's: of its cells, none is shown.
            got=f"{len(table.columns)} columns, {len(wanted) - len(missing)} of them asked for",
            wanted=f"also {', '.join(missing)}",
            next_step="Add the columns, with a header in the first line; or tell the researcher that this site cannot "
            "take part.",
        )
    place = {column: table.columns.index(column) for column in wanted}
    numbers = [column for column in number_columns(study) if column in place] if strict else ()
    sides: tuple[list[_Row], ...] = ([], [])
    records: Counter[str] = Counter()
    stated = None
    if split_column and study.evaluation.held_out_fraction < 1:  # else everybody takes part, whatever it says
        stated = _stated_sides(table, place[patient_column], place[split_column])
    for line, row in table.rows:
        for column in numbers:
            if is_unreadable(row[place[column]]):
                raise _unusable(table, line, column)
            if is_before_follow_up(study.endpoint, column, row[place[column]]):
                raise _before_follow_up(table, line, column)
        label = label_of(study.endpoint, [row[place[column]] for column in study.endpoint.columns])
        met = [meets(each, row[place[each.column]]) for each in study.include]
        cells = {each.column: "" if each.column in absent else row[place[each.column]] for each in study.features}
        patient = row[place[patient_column]]
        if label is None or not patient or not all(met) or not is_in_study(study, cells):
            continue
        if stated is not None and patient not in stated:
            if strict:
                raise _without_side(table, line, str(split_column))
            continue
        records[patient] += 1
        if records[patient] > study.max_records_per_patient:
            continue
        inputs = np.array(record_inputs(study, cells, table.folder), dtype=_dtype_of(study))
        if strict and np.isnan(inputs).any():
            raise _unusable_image(table, line, study, cells)
        by_key = is_held_out(split_key, patient, study.evaluation.held_out_fraction)
        held_out = by_key if stated is None else stated[patient]
        sides[held_out].append((patient, inputs, label))
    return _pack(sides[0], study), _pack(sides[1], study)


def _stated_sides(table: Table, patient: int, split: int) -> dict[str, bool]:
    return stated_sides((row[patient], row[split]) for _, row in table.rows)


def patients_per_row(table: Table, patient_column: str) -> float:
    """Return the number of patients over the number of rows that name one, in (0, 1]; 0.0 if none does.

    Near 1, nearly every row has a patient of its own: a table of one row per patient, or a column that names visits.
    """
    place = table.columns.index(patient_column)
    named = [row[place] for _, row in table.rows if row[place]]
    return len(set(named)) / len(named) if named else 0.0


def made_up_records(study: Study, patients: int) -> Records:
    """Return records of nobody, as many as the public figures allow: for measuring and warming up.

    Args:
        study: gives the number of features, and how many records every patient has.
        patients: how many.

    Raises:
        DataUnusable: so many records do not fit a gate's memory at once.
    """
    count = patients * study.max_records_per_patient
    if count * study.dimension > (most := MAX_PIXEL_CELLS if study.pixels else MAX_CELLS):
        raise DataUnusable(
            f"study '{study.name}' may read more at once than a gate can hold",
            got=f"{patients} patients of {study.max_records_per_patient} records with {study.dimension} inputs",
            wanted=f"at most {most} numbers",
            next_step="Ask the researcher for a lower max_records_per_patient or fewer features.",
        )
    generator, size = np.random.default_rng(0), (count, study.dimension)
    return Records(
        features=2 * generator.random(size, np.float32) - 1 if study.pixels else generator.uniform(-1, 1, size),
        labels=_shaped(_made_up_labels(study, count, generator), study),
        patients=np.repeat(np.arange(patients, dtype=np.int64), study.max_records_per_patient),
        patient_count=patients,
    )


_Row = tuple[str, NDArray[np.floating[Any]], tuple[float, ...]]
"""A patient, the record's inputs, and its label."""


def _made_up_labels(study: Study, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return labels; of a trial, those that take longest: everybody was observed at every visit."""
    labels = generator.integers(0, 2, (count, study.endpoint.label_width)).astype(np.float64)
    if isinstance(study.endpoint, TrialEndpoint):
        labels[:, 1] = len(study.endpoint.outcomes)
    return labels


def _dtype_of(study: Study) -> np.dtype[np.floating[Any]]:
    """Return how a study's inputs are kept: images have some 12 bits, and pixels are many."""
    return np.dtype(np.float32 if study.pixels else np.float64)


def _shaped(labels: ArrayLike, study: Study) -> NDArray[np.float64]:
    width = study.endpoint.label_width
    return np.array(labels, dtype=np.float64).reshape((-1,) if width == 1 else (-1, width))


def _pack(side: list[_Row], study: Study) -> Records:
    names = {patient: index for index, patient in enumerate(dict.fromkeys(patient for patient, _, _ in side))}
    return Records(
        features=np.array([inputs for _, inputs, _ in side], _dtype_of(study)).reshape(len(side), study.dimension),
        labels=_shaped([label for _, _, label in side], study),
        patients=np.array([names[patient] for patient, _, _ in side], dtype=np.int64),
        patient_count=len(names),
    )


def columns_of(study: Study) -> tuple[str, ...]:
    """Return the columns that a study asks for, each once."""
    return tuple(dict.fromkeys((*(each.column for each in (*study.features, *study.include)), *study.endpoint.columns)))


def number_columns(study: Study) -> tuple[str, ...]:
    """Return those of a study's columns in which a cell must be a number or blank, each once."""
    parts = (*study.include, *study.features)
    columns = (each.column for each in parts if isinstance(each, NumberCondition | NumberFeature))
    return tuple(dict.fromkeys((*study.endpoint.number_columns, *columns)))


def is_in_study(study: Study, cells: Mapping[str, str]) -> bool:
    """Say whether the rules on missing values keep a record in the study: of each feature, and of the modalities.

    Args:
        study: the protocol.
        cells: of each feature, by its column.
    """
    has = presence_of(study, cells)
    left_out = any(is_left_out(feature, cells[feature.column]) for feature in study.features)
    return not left_out and (not has or any(has))


def record_inputs(study: Study, cells: Mapping[str, str], folder: Path) -> list[float]:
    """Return a record's model inputs: those of all features, and then whether it has each of the modalities.

    Args:
        study: the protocol.
        cells: of each feature, by its column.
        folder: below which its images lie.
    """
    inputs = [value for feature in study.features for value in inputs_of(feature, cells[feature.column], folder)]
    return [*inputs, *map(float, presence_of(study, cells))]


def presence_of(study: Study, cells: Mapping[str, str]) -> list[bool]:
    """Return whether a record has each of the study's modalities: a value of any of its features."""
    if not study.model.modalities:
        return []
    there = {each.column for each in study.features if not is_missing(each, cells[each.column])}
    return [not there.isdisjoint(modality.columns) for modality in study.model.modalities]


def inputs_of(feature: Feature, cell: str, folder: Path) -> list[float]:
    """Return the model inputs that a cell of a feature's column becomes; NaN where it is unreadable or left out."""
    if isinstance(feature, MoleculeFeature):
        return molecule_inputs(feature, cell)
    if isinstance(feature, ImageFeature):
        return image_inputs(feature, cell, folder)
    absent = is_missing(feature, cell)
    if isinstance(feature, CategoryFeature):
        inputs = [float(cell == category) for category in feature.categories]
    else:
        value = feature.impute if absent else number_of(cell)
        inputs = [math.nan if value is None else scaled(value, feature.range)]
    return [*inputs, float(absent)] if feature.missing_indicator else inputs


def is_missing(feature: Feature, cell: str) -> bool:
    """Say whether a cell of a feature's column has no value: blank, or nothing that the study reads."""
    if isinstance(feature, CategoryFeature):
        return cell not in feature.categories
    if isinstance(feature, MoleculeFeature):
        return read_molecule(cell) is None
    if isinstance(feature, ImageFeature):
        return is_blank(cell)
    value = number_of(cell)
    return value is None or value in feature.missing_values


def is_left_out(feature: Feature, cell: str) -> bool:
    """Say whether a feature's rule on missing values keeps a record with this cell out of the study."""
    return feature.missing == "exclude" and is_missing(feature, cell)


def _unusable(table: Table, line: int, column: str) -> DataUnusable:
    return DataUnusable(
        f"{table.row_word} {line}, column '{column}' of {table.path} cannot be used",
        got="text or a number that is not finite",
        wanted="a number, or a blank where it was not measured",
        next_step="Correct the cell.",
    )


def _unusable_image(table: Table, line: int, study: Study, cells: Mapping[str, str]) -> DataUnusable:
    images = [feature for feature in study.features if isinstance(feature, ImageFeature)]
    whys = ((each.column, why_unreadable(each, cells[each.column], table.folder)) for each in images)
    column, why = next((column, why) for column, why in whys if why)
    return DataUnusable(
        f"the image of {table.row_word} {line}, column '{column}' of {table.path} cannot be used: {why}",
        wanted="an image as the study asks for, or a blank where there is none",
        next_step="All such images, and what is wrong with each: fedhealth site data check --help",
    )


def _without_side(table: Table, line: int, column: str) -> DataUnusable:
    return DataUnusable(
        f"{table.row_word} {line} of {table.path} is of a patient on no side of the split",
        got=f"another word, a blank, or both sides, in column '{column}'",
        wanted=" or ".join(f"'{word}'" for word in SIDE_WORDS) + ", the same in all rows of a patient",
        next_step="Correct the cells.",
    )


def _before_follow_up(table: Table, line: int, column: str) -> DataUnusable:
    return DataUnusable(
        f"{table.row_word} {line}, column '{column}' of {table.path} cannot be used",
        got="a time below 0: follow-up that ended before it began",
        wanted="a time of 0 or more, or a blank where it is not known",
        next_step="Correct the cell, or the dates that it was worked out from.",
    )
