"""Which of a study's modalities a hospital has, and in how many records; for the administrator and for nobody else.

The protocol says what becomes of a record without one, and of a hospital without a scanner, so nothing of this changes
what the coordinator sees: the gate answers as any other, and its noise covers the towers to which nobody here adds.
"""

from collections.abc import Iterator

from fedhealth.records.cells import label_of, meets
from fedhealth.records.columns import Problem
from fedhealth.records.table import Table, presence_of
from fedhealth.study.modalities import absent_from
from fedhealth.study.protocol import Study

_ASK = "Such records take part with the others that they have; ask whether that is meant."


def find_modality_problems(table: Table, study: Study) -> Iterator[Problem]:
    """Yield the modalities that a table lacks, or that some of its records do; nothing of a study without any.

    Args:
        table: the whole table; where a column that it must have is missing, no share of its records is said.
        study: the protocol.
    """
    modalities = study.model.modalities
    absent = absent_from(table.columns, modalities)
    for modality in absent:
        yield Problem(
            "warning",
            "",
            f"modality '{modality.name}' is absent: the table has no column of it ({', '.join(modality.columns)})",
            "This hospital's patients take part with the other modalities, as the protocol allows.",
        )
    lacking = {column for each in absent for column in each.columns}
    place = {column: at for at, column in enumerate(table.columns)}
    conditions = {*study.endpoint.columns, *(each.column for each in study.include)}
    wanted = {each.column for each in study.features} - lacking
    if not modalities or not conditions | wanted <= place.keys():
        return
    has = [
        presence_of(study, {column: row[place[column]] for column in wanted} | dict.fromkeys(lacking, ""))
        for _, row in table.rows
        if label_of(study.endpoint, [row[place[column]] for column in study.endpoint.columns]) is not None
        and all(meets(each, row[place[each.column]]) for each in study.include)
    ]
    for modality, there in zip(modalities, zip(*has, strict=True), strict=False):
        if modality not in absent and not all(there):
            share = f"{there.count(False) / len(there):.1%} of the records have no '{modality.name}'"
            yield Problem("warning", "", share, _ASK)
    if nothing := sum(not any(each) for each in has):
        what = f"{nothing / len(has):.1%} of the records have no modality of the study, and are left out"
        yield Problem("warning", "", what, "Ask whether to take part.")
