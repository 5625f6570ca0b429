"""docs/simulate.md, as written: its commands and its Python run one after the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_every_command_and_line_of_python_runs_as_written(tmp_path):
    for name in ("sites", "protocols"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "fedhealth"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fedhealth.cli.main "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE):
        command = ["bash", "-e", "-c", block] if language == "sh" else [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, block + done.stdout + done.stderr
    for folder in ("trial", "another", "from-python"):
        assert (tmp_path / folder / "report.html").stat().st_size > 0
    assert '"rounds_completed": 30' in (tmp_path / "another.json").read_text()


def test_the_page_names_every_option(capsys):
    from fedhealth.cli.study_simulate import simulate

    options = {f"--{name.replace('_', '-')}" for name in simulate.__annotations__} - {"--protocol", "--return"}
    named = set(re.findall(r"^\| `(--[a-z-]+)`", DOCUMENT, re.MULTILINE))
    assert named == options - {"--reference", "--as-json"} | {"--no-reference", "--json"}
