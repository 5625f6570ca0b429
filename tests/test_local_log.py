"""What a log may say: fixed messages, allowed fields, and nothing of a patient, whatever goes wrong."""

import ast
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedhealth.errors import DataUnusable, IdentityInvalid
from fedhealth.local_log import FIELDS, WITHHELD, FieldFormatter

PACKAGE = Path(__file__).resolve().parents[1] / "fedhealth"
PATIENT = "CANARY-7f3a"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}


def line(message, *arguments, name="fedhealth.test", error=None):
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.WARNING, __file__, 1, message, arguments, info)
    return FieldFormatter().format(record).partition(f"{name}: ")[2]


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


FIELD_TABLE = {
    "a study": ("study", "a" * 64, "a" * 12),
    "a study that is none": ("study", PATIENT, WITHHELD),
    "a site": ("site", "long-beach", "long-beach"),
    "a site that is none": ("site", f"x {PATIENT}", WITHHELD),
    "an error of the package": ("error", IdentityInvalid("expired", next_step="Renew."), "expired. Renew."),
    "an error that met the data": ("error", DataUnusable(PATIENT), "DataUnusable"),
    "any other error": ("error", ValueError(PATIENT), "ValueError"),
    "a text for an error": ("error", PATIENT, WITHHELD),
    "an error of two lines": ("error", IdentityInvalid("one\ntwo: forged line"), "one two: forged line."),
    "a number": ("multiple", 3, "3"),
    "a float": ("multiple", 3.5, WITHHELD),
    "a truth value": ("multiple", True, WITHHELD),
    "a large number": ("multiple", 10**9, WITHHELD),
    "an address": ("address", "ipv4:10.0.0.1:7443", "ipv4:10.0.0.1:7443"),
    "an address with more": ("address", f"10.0.0.1 {PATIENT}", WITHHELD),
    "a code": ("code", "UNAVAILABLE", "UNAVAILABLE"),
    "a field that is not allowed": ("patient", PATIENT, WITHHELD),
}


@pytest.mark.parametrize(("field", "value", "written"), FIELD_TABLE.values(), ids=FIELD_TABLE)
def test_a_field_is_written_in_the_one_form_that_its_name_allows(field, value, written):
    assert line(f"it is %({field})s", {field: value}) == f"it is {written}"


def test_every_field_withholds_what_is_not_of_its_form():
    values = (PATIENT + "\n", 173.5, None, b"bytes", [PATIENT], {"a": PATIENT}, "x" * 1000, object())
    for field in FIELDS:
        for value in values:
            assert line(f"%({field})s", {field: value}) == WITHHELD, (field, value)


def test_what_is_handed_over_by_position_or_by_a_library_is_withheld():
    assert line("patient %s has %d", PATIENT, 3) == f"patient {WITHHELD} has {WITHHELD}"
    assert line(f"all of {PATIENT}", name="asyncio") == WITHHELD
    assert line(ValueError(PATIENT)) == WITHHELD
    assert line("it failed", error=raised(ValueError(PATIENT))) == "it failed (ValueError)"


def calls():
    """Yield every call of a logger in the package, with the file it stands in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                owner = ast.unparse(node.func.value)
                if owner in ("_LOG", "logger", "logging") or owner.startswith("logging."):
                    yield path, node


def complaint(call):
    """Return what is wrong with a call of a logger, or None."""
    message, *values = call.args
    if not isinstance(message, ast.Constant) or not isinstance(message.value, str):
        return "its message is not fixed"
    if call.keywords or len(values) > 1 or call.func.attr in ("exception", "log"):
        return "it has more than a message and its fields"
    named = re.findall(r"%\((\w+)\)[sd]", message.value)
    if values and not isinstance(values[0], ast.Dict):
        return "its values are not given by name"
    keys = [ast.literal_eval(key) for key in values[0].keys] if values else []
    if set(keys) != set(named) or not set(keys) <= set(FIELDS) or re.search(r"%[^(%]", message.value):
        return "its fields are not those of the closed list"
    return None


def test_every_message_in_the_package_is_fixed_and_every_field_is_of_the_closed_list():
    found = list(calls())
    assert len(found) > 10
    wrong = [f"{path.name}:{call.lineno} {complaint(call)}" for path, call in found if complaint(call)]
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        "_LOG.warning(text)",
        "_LOG.warning(f'patient {name}')",
        "_LOG.warning('patient %s', name)",
        "_LOG.warning('patient %(name)s', {'name': name})",
        "_LOG.warning('study %(study)s %(site)s', {'study': study})",
        "_LOG.error('it failed', exc_info=True)",
        "_LOG.exception('it failed')",
    ],
)
def test_a_call_that_could_say_more_would_be_found(source):
    assert complaint(ast.parse(source).body[0].value)


@pytest.mark.parametrize("where", ["main", "thread", "destructor"])
def test_an_error_that_nobody_caught_is_said_without_its_text(where):
    program = f"""
import threading
from fedhealth.local_log import withhold_tracebacks
withhold_tracebacks()
def fail():
    raise ValueError("{PATIENT}")
class Dropped:
    def __del__(self):
        fail()
if "{where}" == "thread":
    thread = threading.Thread(target=fail); thread.start(); thread.join()
elif "{where}" == "destructor":
    Dropped()
else:
    fail()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "a defect ended this: ValueError\n"
