"""The walk of docs/first-study.md, as written: from a table with a hospital column to a verified evidence report."""

import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "first-study.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


def write_ward(file):
    """Write a table of nobody with the columns that the document names."""
    chance = random.Random(5)  # noqa: S311 - no secret
    lines = ["patient,hospital,age,pressure,sex,smoker,outcome"]
    for number in range(900):
        age, pressure = chance.randint(20, 90), round(chance.gauss(130, 20), 1)
        smoker = chance.choice(["yes", "no", ""])
        odds = (age - 55) / 20 + (pressure - 130) / 30 + (smoker == "yes") + chance.gauss(0, 1)
        hospital = ("north", "south", "east")[number % 3]
        outcome = "case" if odds > 0 else "control"
        lines.append(f"p{number},{hospital},{age},{pressure},{chance.choice('fm')},{smoker},{outcome}")
    file.write_text("\n".join(lines) + "\n")


def test_the_walk_takes_five_commands_and_leaves_a_report(tmp_path):
    installing, walking = BLOCKS
    commands = walking.strip().splitlines()
    assert installing.startswith("make install\n") and len(commands) + 1 == 5
    write_ward(tmp_path / "ward.csv")
    ended = {}
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "fedhealth"
        done = subprocess.run(
            [sys.executable, "-m", "fedhealth.cli.main", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT)},
        )
        assert "Traceback" not in done.stderr
        ended[words[1]] = done.returncode, done.stdout + done.stderr
    assert {verb: code for verb, (code, _) in ended.items()} == {"new": 0, "check": 0, "simulate": 0, "verify": 13}, (
        ended
    )
    report = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    for words in ("My study", "AUC", "Calibration"):
        assert words.lower() in report.lower()


@pytest.mark.parametrize("path", re.findall(r"\]\((\w[\w.-]*\.md)\)", DOCUMENT))
def test_the_pages_it_points_to_exist(path):
    assert (ROOT / "docs" / path).exists()
