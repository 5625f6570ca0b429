"""What an administrator should know of a study's images in a table: those that cannot be used, and text in pixels.

Rows are named, never a file nor what is in it. Everything here rests on patients and is for the hospital's own
terminal.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhealth.records.cells import is_blank, label_of, meets
from fedhealth.records.columns import Problem
from fedhealth.records.image_grid import fit_image
from fedhealth.records.image_inputs import wanted_of
from fedhealth.records.images import Unreadable, read_image
from fedhealth.records.table import Table
from fedhealth.study.images import ImageFeature
from fedhealth.study.protocol import Study

_BORDER = 8
"""Text is looked for in this part of an image's height and width, on each side."""

_BRIGHT, _DARK = 0.9, 0.1
"""Of the way from the lowest intensity to the highest: letters are the one on the other."""

_STROKES = 24
"""Pixels of such letters in a slice: three or four letters have more, tissue seldom has any."""

_SAYS_SO, _LOOKS_SO = "say that text is burned into them", "have sharp bright marks at the border, as text has"


def find_image_problems(table: Table, study: Study) -> Iterator[Problem]:
    """Yield what is wrong with the images of the records that are in a study, or may be.

    Args:
        table: the whole table; of a column that it lacks, nothing is said.
        study: the protocol.

    Raises:
        ConfigInvalid: what reads images is not installed.
    """
    there = set(table.columns)
    asked = {*study.endpoint.columns, *(each.column for each in study.include)}
    for feature in study.features:
        if isinstance(feature, ImageFeature) and {feature.column, *asked} <= there:
            yield from _problems_of(feature, table, study)


def _problems_of(feature: ImageFeature, table: Table, study: Study) -> Iterator[Problem]:
    place = {column: number for number, column in enumerate(table.columns)}
    look = lru_cache(maxsize=None)(lambda cell: _findings(feature, table, cell))
    unread, doubtful = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    images = 0
    for line, row in table.rows:
        label = label_of(study.endpoint, [row[place[column]] for column in study.endpoint.columns])
        cell, met = row[place[feature.column]], all(meets(each, row[place[each.column]]) for each in study.include)
        if label is None or not met or is_blank(cell):
            continue
        images += 1
        why, doubts = look(cell)
        if why:
            unread[why].append(line)
        for doubt in doubts:
            doubtful[doubt].append(line)
    for why, lines in sorted(unread.items()):
        yield Problem(
            "error",
            feature.column,
            f"{len(lines) / images:.1%} of the images cannot be used, each because {why}",
            "Correct them, or leave the cells blank; after an approval each counts its patient as zero.",
            tuple(lines),
        )
    for doubt, lines in sorted(doubtful.items()):
        yield Problem(
            "warning",
            feature.column,
            f"{len(lines) / images:.1%} of the images {doubt}",
            "Look at them: a name in the pixels is an input of the model. Blacken it.",
            tuple(lines),
        )
    if table.rows and not images:
        yield Problem("warning", feature.column, "no image in any record of the study", "Ask whether to take part.")


def _findings(feature: ImageFeature, table: Table, cell: str) -> tuple[str, tuple[str, ...]]:
    """Return what keeps an image from being used, if anything, and what is doubtful of it."""
    try:
        image = read_image(table.folder, cell, wanted_of(feature))
        fit_image(image, feature)
    except Unreadable as why:
        return str(why), ()
    if image.annotated:
        return "", (_SAYS_SO,)
    return "", (_LOOKS_SO,) if _has_marks(image.voxels) else ()


def _has_marks(voxels: NDArray[np.float32]) -> bool:
    """Say whether some slice has as many sharp bright edges near its border as a few letters have."""
    low, high = float(voxels.min()), float(voxels.max())
    bright, dark = (low + part * (high - low) for part in (_BRIGHT, _DARK))
    rows, columns = (length // _BORDER for length in voxels.shape[-2:])
    for pixels in voxels.reshape(-1, *voxels.shape[-2:]) if high > low else ():
        edges = np.zeros(pixels.shape, dtype=bool)
        edges[:, 1:] |= (pixels[:, 1:] >= bright) & (pixels[:, :-1] <= dark)
        edges[:, :-1] |= (pixels[:, :-1] >= bright) & (pixels[:, 1:] <= dark)
        edges[rows:-rows, columns:-columns] = False
        if edges.sum() >= _STROKES:
            return True
    return False
