"""What a process may say in its log: fixed messages with the fields of a closed list, whatever it is handed.

A call gives its values by name, `_LOG.warning("study %(study)s is stopped", {"study": digest})`, and `FieldFormatter`
writes each value only in the form that its name allows. Everything else reads "[withheld]": another name, a value of
another form, a value given by position, the text of an exception that may have met a patient's records, and all that a
library says. A log is local, and still no place for a patient: it is copied, shipped and read by many.

Invariants: no text of an exception of a class outside `SAYABLE` is written, in no traceback either; a line of the log
is one line.

Leaves to others: which messages exist (a test reads every call in the package).
"""

import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import PurePath
from types import TracebackType

from fedhealth.errors import (
    ApprovalMissing,
    BudgetExhausted,
    FederationFailed,
    IdentityInvalid,
    LedgerDamaged,
    LinkUnavailable,
    PolicyForbids,
)

WITHHELD = "[withheld]"

SAYABLE = (
    ApprovalMissing,
    BudgetExhausted,
    FederationFailed,
    IdentityInvalid,
    LedgerDamaged,
    LinkUnavailable,
    PolicyForbids,
)
"""Errors raised only where no patient's record is at hand; of every other class the log has the name alone."""

_LONGEST = 600


def _matching(pattern: str, keep: int = _LONGEST) -> Callable[[object], str]:
    compiled = re.compile(pattern)

    def write(value: object) -> str:
        text = value if isinstance(value, str) else ""
        return str(text)[:keep] if compiled.fullmatch(text) else WITHHELD

    return write


def _number(value: object) -> str:
    return str(value) if type(value) is int and 0 <= value <= 10**6 else WITHHELD


def _error(value: object) -> str:
    if isinstance(value, SAYABLE):
        return " ".join(str(value).split())[:_LONGEST]
    return type(value).__name__ if isinstance(value, BaseException) else WITHHELD


_WORD, _HOST = r"[a-z][a-z-]{0,39}", r"[A-Za-z0-9._\[\]:%-]{1,260}"

FIELDS: Mapping[str, Callable[[object], str]] = {
    "study": _matching(r"[0-9a-f]{64}", keep=12),
    "site": _matching(r"[a-z0-9][a-z0-9-]{0,62}"),
    "error": _error,
    "defect": _matching(r"[A-Za-z_]{1,60}"),
    "step": _matching(_WORD),
    "service": _matching(_WORD),
    "state": _matching(_WORD),
    "process": _matching("gate|node|coordinator|index|page"),
    "code": _matching(r"[A-Za-z_-]{1,40}"),
    "address": _matching(_HOST),
    "multiple": _number,
    "abi": _number,
}
"""Every field that a log may have, and how its value is written."""


class FieldFormatter(logging.Formatter):
    """Writes records of this package with their allowed fields, and of any other only who said something."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        said = message_of(record)
        if record.exc_info and record.exc_info[1] is not None:
            said += f" ({describe(record.exc_info[1])})"
        return f"{self.formatTime(record)} {record.levelname} {record.name}: {said}"


def message_of(record: logging.LogRecord) -> str:
    """Return what a record may say."""
    if record.name.split(".")[0] != "fedhealth" or not isinstance(record.msg, str):
        return WITHHELD
    if not record.args:
        return record.msg
    given: Mapping[str, object] = record.args if isinstance(record.args, Mapping) else {}
    written = {name: write(given[name]) for name, write in FIELDS.items() if name in given}
    named = re.sub(r"%\((\w+)\)[sd]", lambda found: written.get(found[1], WITHHELD), record.msg)
    return re.sub(r"%[srd]", WITHHELD, named)


def describe(error: BaseException) -> str:
    """Return an error as a log may have it: its class or allowed text, and where in this package it was raised."""
    place, step = "", error.__traceback__
    while step is not None:
        path = PurePath(step.tb_frame.f_code.co_filename)
        if "fedhealth" in path.parts:
            place = f" at {path.name}:{step.tb_lineno}"
        step = step.tb_next
    return _error(error) + place


def withhold_tracebacks() -> None:
    """Have errors that nobody caught written without their texts, which may hold what a record held."""

    def write(error: BaseException | None) -> None:
        if error is not None:
            sys.stderr.write(f"a defect ended this: {describe(error)}\n")

    def on_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        write(error)

    sys.excepthook = on_exit
    threading.excepthook = lambda arguments: write(arguments.exc_value)
    sys.unraisablehook = lambda arguments: write(arguments.exc_value)
