"""Flower's programs end with whoever holds their standard input, and under a service manager by themselves alone."""

import subprocess
import sys

import pytest

SLOW = """
import sys, time, types
from fedhealth.flower import stock_process
slow = types.ModuleType("slow")
slow.main = lambda: time.sleep(0.5)
sys.modules["slow"] = slow
stock_process._PROGRAMS = {"slow": ("slow", "main")}
stock_process.main(["slow"], lifeline=sys.argv[1] == "lifeline")
"""


@pytest.mark.parametrize(("held", "code"), [("lifeline", 1), ("nothing", 0)])
def test_a_closed_standard_input_ends_a_program_only_where_it_is_its_lifeline(held, code):
    assert subprocess.run([sys.executable, "-c", SLOW, held], stdin=subprocess.DEVNULL).returncode == code
