"""Fuzzing every parser that faces the network, in a process whose memory nothing else uses."""

import subprocess
import sys
from pathlib import Path

PARSERS = Path(__file__).with_name("fuzzed_parsers.py")
FIRST_TEXT = """
from hypothesis import given, settings, strategies
settings(max_examples=1, database=None)(given(strategies.text())(lambda text: None))()
"""
"""The first text that hypothesis draws in a folder makes it compute a table of characters, kept in a file, which
takes 200 MiB once: not the parsers' doing."""


def test_whatever_a_peer_sends_no_parser_crashes_hangs_or_takes_64_mebibytes():
    subprocess.run([sys.executable, "-c", FIRST_TEXT], check=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", str(PARSERS)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2000:]
    assert "6 passed" in run.stdout
