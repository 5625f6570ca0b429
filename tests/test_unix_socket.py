"""Folders of sockets: nothing of a process that was killed stays, and nothing of one that lives goes."""

import os
import subprocess
import sys

import pytest

from fedhealth.unix_socket import SocketFolder

HOLDING = (
    "import sys; from fedhealth.unix_socket import SocketFolder\n"
    "made = SocketFolder('fh-test-'); (made.path / 'a.sock').touch(); print(made.path, flush=True); sys.stdin.read()"
)


@pytest.fixture
def holder(monkeypatch, tmp_path):
    """A process that has a folder, which seems to be older than it is; returns both."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    path = tmp_path / process.stdout.readline().strip()
    os.utime(path, (0, 0))
    yield process, path
    process.kill()
    process.communicate()


def test_what_a_killed_process_left_goes_when_the_next_begins(holder):
    process, left = holder
    process.kill()
    process.wait()
    assert (left / "a.sock").exists()
    with SocketFolder("fh-test-") as own:
        assert own.stat().st_mode & 0o077 == 0
        assert not left.exists()
    assert not own.exists()


def test_the_folder_of_a_process_that_lives_and_of_others_stays(holder, tmp_path):
    _, held = holder
    (tmp_path / "other").mkdir()
    (tmp_path / "fh-test-link").symlink_to(tmp_path / "other")
    for path in (tmp_path / "other", tmp_path / "fh-test-link"):
        os.utime(path, (0, 0))
    with SocketFolder("fh-test-"):
        assert (held / "a.sock").exists()
        assert (tmp_path / "other").exists()


def test_a_folder_that_was_just_made_is_not_taken_for_one_that_was_left(holder):
    process, left = holder
    process.kill()
    process.wait()
    os.utime(left)
    with SocketFolder("fh-test-"):
        assert left.exists()
