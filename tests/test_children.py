"""The programs that FedHealth starts of its own: as whom they find what they import."""

import pytest

from fedhealth.flower.stock_process import stock_command
from fedhealth.processes import Processes


@pytest.mark.processes
def test_a_child_imports_nothing_from_the_folder_that_it_is_started_in(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the working folder')")
    monkeypatch.chdir(tmp_path)
    with Processes(tmp_path) as processes:
        child = processes.start("node", ["site", "node", "--state", str(tmp_path / "none")])
        child.process.wait(60)
        assert "working folder" not in child.end()
    assert "-P" in stock_command("flower-superlink")
