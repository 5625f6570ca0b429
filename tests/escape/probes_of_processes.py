"""Attempts on the gate's process, on Unix rights and on the kernel."""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from pathlib import Path

from probe_target import (
    GATE,
    GATE_USER,
    KEYCTL,
    LIBC,
    NEW_NS,
    NEW_USER,
    OWN_PROCESS,
    PIDFD_GETFD,
    PIDFD_OPEN,
    PIDFD_SIGNAL,
    PROC,
    SITE,
    STATE,
    call,
    checked,
)


def an_address():
    try:
        return int((PROC / "maps").read_text().split("-")[0], 16)
    except OSError:
        return 0x400000


class Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def copy_memory(number):
    def probe():
        buffer = ctypes.create_string_buffer(16)
        here, there = Span(ctypes.addressof(buffer), 16), Span(an_address(), 16)
        if LIBC.syscall(number, GATE, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0:
            return True
        return ctypes.get_errno() == 14  # EFAULT: permitted, at a wrong address

    return probe


def read_memory():
    with (PROC / "mem").open("rb", buffering=0) as memory:
        memory.seek(an_address())
        return len(memory.read(16)) > 0


def write_memory_file():
    os.close(os.open(PROC / "mem", os.O_RDWR))
    return True


def trace():
    LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    checked(LIBC.ptrace(16, GATE, None, None))
    os.waitpid(GATE, 0x40000000)
    return checked(LIBC.ptrace(17, GATE, None, None))


def seize():
    LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    return checked(LIBC.ptrace(0x4206, GATE, None, None))


def take_a_descriptor():
    gate = call(PIDFD_OPEN, GATE, 0)
    return any(call(PIDFD_GETFD, gate, number, 0) >= 0 for number in (0, 1, 2))


def open_its_files():
    for path in list((PROC / "fd").iterdir()):
        with contextlib.suppress(OSError), path.open("rb") as file:
            return len(file.read(1)) >= 0
    return False


def signal_it():
    os.kill(GATE, signal.SIGURG)
    return True


def signal_it_by_descriptor():
    return call(PIDFD_SIGNAL, call(PIDFD_OPEN, GATE, 0), signal.SIGURG, None, 0) == 0


def slow_it_down():
    os.setpriority(os.PRIO_PROCESS, GATE, os.getpriority(os.PRIO_PROCESS, GATE) + 1)
    return True


def pin_it():
    os.sched_setaffinity(GATE, os.sched_getaffinity(GATE))
    return True


def limit_it():
    resource.prlimit(GATE, resource.RLIMIT_NOFILE, resource.prlimit(GATE, resource.RLIMIT_NOFILE))
    return True


def write_file_of_process(name, text):
    def probe():
        with (PROC / name).open("w") as file:
            file.write(text)
        return True

    return probe


def enter_its(namespace, kind):
    def probe():
        descriptor = os.open(PROC / "ns" / namespace, os.O_RDONLY)
        try:
            return checked(LIBC.setns(descriptor, kind))
        finally:
            os.close(descriptor)

    return in_a_child(probe)


def in_a_child(probe):
    """Try in a process of its own what would change this one."""

    def wrapped():
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = 0 if probe() else 1
            os._exit(code)
        return os.waitpid(child, 0)[1] == 0

    return wrapped


def read_data_as_root_of_a_namespace():
    user, group = os.getuid(), os.getgid()
    checked(LIBC.unshare(NEW_USER | NEW_NS))
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return len((SITE / "patients.csv").read_bytes()) > 0


def mount_over():
    checked(LIBC.unshare(NEW_USER | NEW_NS))
    user = os.getuid()
    with contextlib.suppress(OSError):
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    return checked(LIBC.mount(str(STATE / "node").encode(), str(STATE).encode(), None, 4096, None))


def become_the_gate():
    os.setresuid(GATE_USER, GATE_USER, GATE_USER)
    return os.getuid() == GATE_USER


def become_root():
    os.setresuid(0, 0, 0)
    return True


def become_root_by_a_program():
    done = subprocess.run(["/bin/su", "-c", "id -u"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    return done.stdout.strip() == b"0"


def find_keys_of_the_kernel():
    return any(f" {GATE_USER} " in line for line in Path("/proc/keys").read_text().splitlines())


def read_its_keyring():
    return call(KEYCTL, 11, -4, ctypes.create_string_buffer(64), 64) > 0 and os.getuid() == GATE_USER


def find_shared_memory():
    return any(line.split()[7] == str(GATE_USER) for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:])


# Sockets and frames


def execute_a_shell():
    return subprocess.run(["/bin/sh", "-c", "exit 0"], timeout=10).returncode == 0


def signal_another_of_its_user():
    os.kill(OWN_PROCESS, signal.SIGURG)
    return True
