"""The command line in this process."""

import pytest

from fedhealth.cli.main import main


@pytest.fixture
def fedhealth(capsys, monkeypatch):
    """Run a command in this process; return its exit code, what it printed and what it said."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["fedhealth", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out.strip(), captured.err

    return run


@pytest.fixture
def command(fedhealth):
    """Run a command; return its exit code and what it said on standard error."""
    return lambda *arguments: fedhealth(*arguments)[::2]
