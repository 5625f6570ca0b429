"""What a record is made of in parts that may be missing as a whole: imaging, structures of molecules, clinical data.

A modality is some of a study's features, with a tower of its own in the model. A record has it if it has a value of any
of them; one presence input for each modality, 1 or 0, after the inputs of all features, says so to the model. A record
that has none is not in the study.

A hospital without a scanner has no such columns: of a modality that `may_be_absent`, its table may lack all, and then
none of its records has it. That is the protocol's rule and the header's word, so that nothing of it rests on patients.
"""

from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import Field

from fedhealth.study.features import Condition, Feature
from fedhealth.study.part import Column, Part, StudyName

MAX_MODALITIES = 10


class Modality(Part):
    """Some of a study's features, and the tower of the model that looks at them.

    Attributes:
        name: a short name in lower case, such as "imaging".
        columns: of its features; each feature of the study belongs to one modality.
        hidden: widths of the tower's hidden layers, from the inputs on; a tower without any is linear.
        may_be_absent: a hospital whose table has none of the columns may take part.
    """

    name: StudyName
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1000)]
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=10)] = ()
    may_be_absent: bool = False


def check_modalities(
    modalities: Sequence[Modality], features: Sequence[Feature], include: Collection[Condition]
) -> None:
    """Return if modalities divide the features among them, and those that may be absent can be.

    Raises:
        ValueError: they do not; says which columns.
    """
    names = [modality.name for modality in modalities]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"modalities have one name: {', '.join(repeated)}")
    if len(modalities) < 2:
        raise ValueError("model.modalities has one, wanted at least two, or none")
    known, claimed = [each.column for each in features], [column for each in modalities for column in each.columns]
    if unknown := sorted(set(claimed) - set(known)):
        raise ValueError(f"modalities name what is no feature: {', '.join(unknown)}")
    if twice := sorted({column for column in claimed if claimed.count(column) > 1}):
        raise ValueError(f"modalities name a column twice: {', '.join(twice)}")
    if left := [column for column in known if column not in claimed]:
        raise ValueError(f"features in no modality: {', '.join(left)}")
    absent = {column for each in modalities if each.may_be_absent for column in each.columns}
    if asked := sorted({each.column for each in features if each.missing == "exclude"} & absent):
        raise ValueError(
            f"a modality that may be absent has features that leave out records without a value: {', '.join(asked)}"
        )
    if looked_at := sorted({each.column for each in include} & absent):
        raise ValueError(f"include looks at columns of a modality that may be absent: {', '.join(looked_at)}")


def absent_from(columns: Collection[str], modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """Return the modalities that a table may lack and of which it has no column; none where it would have none left.

    Args:
        columns: the table's header.
        modalities: of a study.
    """
    there = set(columns)
    absent = tuple(each for each in modalities if each.may_be_absent and there.isdisjoint(each.columns))
    return absent if len(absent) < len(modalities) else ()
