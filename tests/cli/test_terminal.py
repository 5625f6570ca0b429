"""What a person reads at a terminal fits it; what goes into a pipe is left as it is."""

import os
import pty
import subprocess
import sys

import pytest

from fedhealth.cli.output import fitted

WRONG = ["study", "watch", "sepsis", "--coordinator", "/nowhere.sock"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one two three four", "one two\n  three\n  four"),
        ("  label one two", "  label\n    one\n    two"),  # what follows stands under its line
        ("0123456789abcdef", "0123456789abcdef"),  # a key is never broken
        ("a-b-c d-e-f-g", "a-b-c\n  d-e-f-g"),
        ("short", "short"),
        ("", ""),
    ],
)
def test_lines_are_broken_between_words(text, shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "9")
    assert fitted(text) == shown


def test_an_error_fits_a_terminal_and_is_one_line_in_a_pipe():
    command = [sys.executable, "-m", "fedhealth.cli.main", *WRONG]
    environment = os.environ | {"COLUMNS": "60"}
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        assert subprocess.run(command, stderr=theirs, env=environment).returncode == 3
        os.close(theirs)
        lines = terminal.read(4096).decode().splitlines()
    piped = subprocess.run(command, capture_output=True, text=True, env=environment).stderr
    assert len(piped.splitlines()) == 1 and len(lines) > 1
    assert max(map(len, lines)) <= 60
    assert " ".join(line.strip() for line in lines) == piped.strip()
