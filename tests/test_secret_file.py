"""Key files are read whole or not at all: no pipe is waited for, no link followed, no device read without end."""

import os

import pytest

from fedhealth.errors import IdentityInvalid
from fedhealth.secret_file import MAX_KEY_BYTES, create_file, read_file, read_plain_file, read_secret

NO_PLAIN_FILE = {
    "a pipe": (os.mkfifo, "no plain file"),
    "a folder": (lambda path: path.mkdir(), "no plain file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "a link"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "a link"),
    "a byte too many": (lambda path: create_file(path, b"x" * (MAX_KEY_BYTES + 1)), "larger than 65,536 bytes"),
    "nothing": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("read", [read_file, read_secret])
@pytest.mark.parametrize("case", NO_PLAIN_FILE)
def test_refuses_what_is_no_plain_file_and_says_what_it_is(tmp_path, case, read):
    make, said = NO_PLAIN_FILE[case]
    make(tmp_path / "key.pem")
    with pytest.raises(IdentityInvalid) as refusal:
        read(tmp_path / "key.pem")
    assert said in refusal.value.got
    assert "a plain file" in refusal.value.wanted
    with pytest.raises(OSError):
        read_plain_file(tmp_path / "key.pem", MAX_KEY_BYTES)


@pytest.mark.parametrize("length", [0, 1, MAX_KEY_BYTES])
def test_reads_a_file_up_to_the_limit_whole(tmp_path, length):
    create_file(tmp_path / "key.pem", b"x" * length)
    assert read_file(tmp_path / "key.pem") == read_secret(tmp_path / "key.pem") == b"x" * length


def test_a_file_that_grows_while_it_is_read_does_not_pass_the_limit(tmp_path):
    """The size is that of what was read: files under /proc say that they are empty, whatever is in them."""
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_plain_file("/proc/self/status", 10)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
def test_refuses_a_private_key_that_others_may_use(tmp_path, mode):
    create_file(tmp_path / "key.pem", b"x", mode)
    with pytest.raises(IdentityInvalid, match="open to other users"):
        read_secret(tmp_path / "key.pem")
