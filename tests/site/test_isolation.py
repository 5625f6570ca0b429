"""A gate leaves the network, where it can still tell Unix users apart without it."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from gate_by_socket import linux_only, root_only

from fedhealth.errors import ConfigInvalid
from fedhealth.site.isolation import leave_network, user_ids


@root_only
@linux_only
def test_a_gate_without_roots_rights_leaves_the_network_only_if_it_can_still_tell_users_apart():
    # In a user namespace the kernel calls every user but one's own alike (65534), so that a gate there could not
    # tell the node's user from a stranger.
    package = Path(__file__).resolve().parents[2]
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from fedhealth.site.isolation import leave_network\n"
        "import socket, struct\n"
        "left = leave_network(frozenset(map(int, sys.argv[2:])))\n"
        "pair = socket.socketpair()\n"
        "user = struct.unpack('3i', pair[0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]\n"
        "print(int(left), os.getuid(), user, os.readlink('/proc/self/ns/net'))"
    )

    def run(*allowed):
        words = subprocess.run(
            ["/usr/bin/python3", "-B", "-c", program, str(package), *map(str, allowed)],
            user=1000,
            group=1000,
            extra_groups=[],
            cwd="/",
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        return int(words[0]), int(words[1]), int(words[2]), words[3]

    ours = str(Path("/proc/self/ns/net").readlink())
    left, *users, namespace = run(1000)
    if not left:
        pytest.skip("this kernel gives user namespaces to root only")
    assert (users, namespace != ours) == ([1000, 1000], True)
    left, *users, namespace = run(1000, 1001)
    assert (left, users, namespace) == (0, [1000, 1000], ours)


@root_only
@linux_only
def test_a_process_whose_network_was_taken_away_has_none():
    program = "import sys; from fedhealth.site.isolation import has_network; sys.exit(3 if has_network() else 4)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 3
    assert subprocess.run(["unshare", "--net", sys.executable, "-c", program]).returncode == 4


def test_users_are_named_as_unix_knows_them():
    own = pwd.getpwuid(os.getuid())
    assert user_ids([]) == {os.getuid()}
    assert user_ids([own.pw_name]) == {own.pw_uid}
    assert user_ids([own.pw_name, "61002"]) == {own.pw_uid, 61002}  # in a container a user need not have a name
    with pytest.raises(ConfigInvalid, match="no such Unix user"):
        user_ids(["no-such-user-here"])
    assert callable(leave_network)
