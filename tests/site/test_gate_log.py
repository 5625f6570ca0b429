"""Everything a gate logs in a run where patients' values stand in cells, lines, paths and errors: none is in it."""

import logging

import pytest

from fedhealth.learning.steps import STEPS
from fedhealth.link.frames import PutStudy, Refused, ReleaseReply, pack, unpack_reply
from fedhealth.local_log import FieldFormatter

CANARY = "CANARY"
"""Begins every planted value: patients' names, cells, lines, the name of the folder, texts of errors."""


class Lines(logging.Handler):
    """Keeps every line as a process would write it."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.setFormatter(FieldFormatter())
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


@pytest.fixture
def log():
    root, lines = logging.getLogger(), Lines()
    level = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(lines)
    yield lines
    root.removeHandler(lines)
    root.setLevel(level)


def planted_csv():
    rows = [f"{CANARY}-{patient},{20 + patient},{patient % 10},{patient % 2}" for patient in range(24)]
    rows[3] = f"{CANARY}-3,{CANARY}age,{CANARY}dose,1"  # cells that are no numbers
    rows[4] = f"{CANARY}-4,1e999,nan,0"
    rows.append(f"{CANARY}-short,1")  # a line that is not like the header
    return "id,age,dose,ill\n" + "\n".join(rows) + "\n"


def real(step, *arguments):
    return STEPS[step.name](step, *arguments)


def failing(step, *arguments):
    if step.rounds > 1 and arguments[1].patient_count < 30:  # not on the 30 made-up records that warm the gate up
        raise ValueError(f"could not convert string to float: '{CANARY}'")
    return real(step, *arguments)


def failing_at_start(step, *arguments):
    raise KeyError(f"{CANARY}-1")


def test_a_gate_says_nothing_of_a_patient_whatever_goes_wrong(ward, make_protocol, make_csv, log):
    site, study = ward(make_csv(), name=f"{CANARY}-folder"), make_protocol()
    site.approve(study, real)
    site.csv.write_text(planted_csv())

    def run(compute, number):
        gate, ledger = site.open_gate(compute)
        try:
            for frame in (b"", CANARY.encode(), pack(PutStudy(), CANARY.encode())):
                assert isinstance(unpack_reply(gate.handle(frame).frame)[0], Refused)
            return site.ask(gate, ledger, study, number=number)[0]
        finally:
            ledger.close()

    assert isinstance(run(real, 1), ReleaseReply)
    with pytest.raises(KeyError):  # ends the process, which withholds the text of what ended it
        run(failing_at_start, 2)
    assert isinstance(run(failing, 3), Refused)
    site.csv.write_text(planted_csv().split("\n", 3)[3])  # without a header, a patient is taken for one
    assert isinstance(run(real, 4), Refused)
    # It did have something to say about each.
    said = "\n".join(log.lines)
    for expected in (
        "some lines of the data are not like their header",
        "patients counted as zero",
        "is stopped here, after the charge: ValueError",
        "cannot run here: DataUnusable",
    ):
        assert expected in said
    assert CANARY not in said


def test_the_search_would_find_a_patient_in_a_log_as_python_writes_it(log):
    log.setFormatter(logging.Formatter())
    try:
        raise ValueError(f"{CANARY}-1")
    except ValueError:
        logging.getLogger("fedhealth.site.gate").error("patient %s", f"{CANARY}-1", exc_info=True)
    assert "".join(log.lines).count(f"{CANARY}-1") >= 2  # the message and the traceback
