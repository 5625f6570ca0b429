"""The numbers of the system calls that a search gives up are those of the kernel's own headers."""

import re
from pathlib import Path

import pytest

from fedhealth.site.system_calls import _MACHINES

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
REFUSED = set(
    """
    execve execveat ptrace perf_event_open process_vm_readv process_vm_writev bpf userfaultfd pidfd_getfd
    fchown fchownat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr setxattrat removexattrat
    unshare setns add_key request_key keyctl shmget semget msgget mq_open
    io_uring_setup io_uring_enter io_uring_register
    """.split()  # noqa: SIM905 - names of the kernel's, as one reads them
)
OLDER = {"x86_64": ({"chown", "lchown"}, {"chmod"}), "aarch64": (set(), set())}
NEWER = {452: "fchmodat2", 463: "setxattrat", 466: "removexattrat"}  # later than some headers: one number everywhere


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_those_of_the_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", HEADERS[machine].read_text())
    name_of = NEWER | {int(number): name for name, number in found}
    calls, (owners, rights) = _MACHINES[machine], OLDER[machine]
    assert {name_of[number] for number in calls.refused} == REFUSED | owners
    assert name_of[calls.socket] == "socket"
    by_bits = {(name_of[number], argument) for number, argument, _ in calls.by_bits}
    assert by_bits == {("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2), ("clone", 0)} | {(each, 1) for each in rights}
    assert name_of[calls.clone3] == "clone3"
