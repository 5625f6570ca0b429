"""What a node that was taken over would try against its gate; run as a program, prints what succeeded as JSON.

Arguments: mode ("confined": after the node's own confinement; "plain": as its Unix user only), the gate's process id,
the site's folder, its state folder, the coordinator's port, another service's port, a process id of the node's own
user, the gate's user id, and the signed study. A probe succeeds when it returns true; an error means that it was
stopped.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

MODE, GATE, SITE, STATE = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
PORT, OTHER_PORT, OWN_PROCESS, GATE_USER = (int(word) for word in sys.argv[5:9])
SIGNED_STUDY = bytes.fromhex(sys.argv[9])
if MODE == "confined":
    from fedhealth.site.confinement import confine_node

    confine_node(STATE, PORT)

ADMIN = STATE / "gate" / "admin.sock"
PACKAGE = Path(__file__).resolve().parents[2] / "fedhealth"
LIBC = ctypes.CDLL(None, use_errno=True)
PROC = Path("/proc") / str(GATE)
KEYCTL, FANOTIFY_INIT, PIDFD_OPEN, PIDFD_SIGNAL, PIDFD_GETFD, VM_READ, VM_WRITE = 250, 300, 434, 424, 438, 310, 311
NEW_USER, NEW_NET, NEW_NS = 0x10000000, 0x40000000, 0x00020000


def call(number, *arguments):
    """Make a system call; raise what it fails with."""
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True


def can_read(path):
    """Read one byte."""

    def probe():
        with Path(path).open("rb") as file:
            return len(file.read(1)) == 1

    return probe


def can_list(path):
    return lambda: bool(list(Path(path).iterdir()))


def can_write(path):
    """Open for writing, without changing a byte."""

    def probe():
        os.close(os.open(path, os.O_RDWR))
        return True

    return probe


def can_create_in(folder, make=lambda path: path.write_bytes(b"x")):
    def probe():
        path = Path(folder) / "planted-by-the-node"
        make(path)
        path.unlink()
        return True

    return probe


def can_resolve(name):
    return lambda: bool(list((PROC / name).iterdir())) or bool((PROC / name).readlink())


# Files that are linked, moved or watched


def link_the_data():
    os.link(SITE / "patients.csv", STATE / "node" / "stolen")
    return b"," in (STATE / "node" / "stolen").read_bytes()


def read_the_key_by_a_symbolic_link():
    link = STATE / "node" / "link"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(STATE / "gate" / "ledger.key")
    return len(link.read_bytes()) > 0


def replace(path):
    def probe():
        own = path.with_name("planted.sock")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(own))
        own.unlink()
        path.rename(path.with_name("moved.sock"))
        path.with_name("moved.sock").rename(path)
        return True

    return probe


def remove(path):
    def probe():
        kept = path.with_name("kept.sock")
        os.link(path, kept, follow_symlinks=False)
        path.unlink()
        kept.rename(path)
        return True

    return probe


def watch(path):
    def probe():
        return LIBC.inotify_add_watch(LIBC.inotify_init(), str(path).encode(), 0xFFF) >= 0

    return probe


def find_files_left_in(folder):
    def probe():
        for path in Path(folder).rglob("*"):
            if path.lstat().st_uid == GATE_USER and path.is_file() and path.read_bytes():
                return True
        return False

    return probe


def lock_the_ledger():
    """Keep the gate from opening its ledger again."""
    import fcntl

    with (STATE / "gate" / "ledger.sqlite").open("rb") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return True


# The gate's process


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


def pause_and_resume():
    """Tell the gate both, as its administrators do."""
    from fedhealth.errors import ConfigInvalid
    from fedhealth.site.administration import tell_gate
    from fedhealth.site.instructions import Pause, Resume

    try:
        return all(tell_gate(ADMIN, verb(site="ward-a")) for verb in (Pause, Resume))
    except ConfigInvalid as error:
        raise PermissionError(str(error)) from error


def connect_to(path):
    def probe():
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
        return True

    return probe


def connect_abroad():
    with socket.create_connection(("127.0.0.1", OTHER_PORT), timeout=5):
        return True


def connect_abstract():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0escape-{OTHER_PORT}")
    return True


def listen_somewhere():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
    return True


def execute_a_shell():
    return subprocess.run(["/bin/sh", "-c", "exit 0"], timeout=10).returncode == 0


def signal_another_of_its_user():
    os.kill(OWN_PROCESS, signal.SIGURG)
    return True


def ask(frame):
    """Return the gate's reply to a frame; None if there is none."""
    from fedhealth.link.frames import unpack_reply

    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.settimeout(20)
        client.connect(str(STATE / "gate.sock"))
        client.sendall(struct.pack("!I", len(frame)) + frame)
        reply = client.makefile("rb")
        (length,) = struct.unpack("!I", reply.read(4).ljust(4, b"\0"))
        return unpack_reply(reply.read(length)) if length else None
    return None


def kind_of(reply):
    return reply[0].kind if reply else None


def answers():
    """Return whether the gate answers within 15 seconds."""
    from fedhealth.link.frames import AskHead, pack

    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if kind_of(ask(pack(AskHead(since=0)))) == "head":
            return True
        time.sleep(0.2)
    return False


def own_key():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(b"the node's own key".ljust(32))


def ledger_public_key():
    """Return the key by which the coordinator checks this gate, as it learns it when the site joins."""
    from fedhealth.signing import load_public_key

    return load_public_key((STATE / "node" / "ledger.pub").read_text())


def stolen_key():
    """Return the key that the node signs with: the gate's, if it can have it."""
    from fedhealth.errors import FedHealthError
    from fedhealth.signing import load_signing_key

    try:
        return load_signing_key(STATE / "gate" / "ledger.key")
    except FedHealthError:
        return own_key()


def is_signed(domain, data, signature):
    """Check as the coordinator does."""
    from fedhealth.errors import IdentityInvalid
    from fedhealth.signing import verify

    try:
        verify(ledger_public_key(), domain, data, signature)
    except IdentityInvalid:
        return False
    return True


def forge_a_release():
    from fedhealth.link.frames import release_statement
    from fedhealth.signing import sign

    statement = release_statement("a" * 64, "b" * 64)
    return is_signed("release-reply", statement, sign(stolen_key(), "release-reply", statement))


def forge_an_acceptance():
    from fedhealth.link.frames import Accepted, PutStudy, pack
    from fedhealth.signing import sign

    reply = ask(pack(PutStudy(), SIGNED_STUDY))
    if kind_of(reply) != "accepted":
        raise OSError("the study is not accepted")
    changed = Accepted(**{**reply[0].model_dump(), "declared_patients": 10**6})
    own = sign(stolen_key(), "accepted", changed.statement())
    return any(is_signed("accepted", changed.statement(), each) for each in (bytes.fromhex(changed.signature), own))


def use_one_signature_for_another():
    """Take the signature of an acceptance for one of a release."""
    from fedhealth.link.frames import PutStudy, pack

    reply = ask(pack(PutStudy(), SIGNED_STUDY))
    return is_signed("release-reply", reply[0].statement(), bytes.fromhex(reply[0].signature))


def question(number):
    from fedhealth.link.frames import Answer, pack
    from fedhealth.study.signature import open_signed_study

    return pack(Answer(study=open_signed_study(SIGNED_STUDY).study.digest, step="train", round=number), bytes(24))


def witness_it_itself():
    """Countersign a charge with a key of its own, so that a release comes without the coordinator."""
    from fedhealth.link.frames import Witnessed, pack
    from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
    from fedhealth.study.signature import open_signed_study

    reply = ask(question(1))
    if kind_of(reply) != "need-witness":
        raise OSError("nothing to witness")
    head = open_checkpoint(reply[0].note, "ward-a", ledger_public_key())
    receipt = Receipt(site="ward-a", size=head.size, root=head.root)
    study = open_signed_study(SIGNED_STUDY).study.digest
    return kind_of(ask(pack(Witnessed(study=study, receipt=sign_receipt(receipt, own_key()))))) == "release"


def have_a_release_unwitnessed():
    return any(kind_of(ask(question(2))) == "release" for _ in range(3))


def have_its_own_study_run():
    from fedhealth.link.frames import Answer, PutStudy, pack
    from fedhealth.study.protocol import Study
    from fedhealth.study.signature import open_signed_study, sign_study

    study = open_signed_study(SIGNED_STUDY).study
    own = Study.model_validate({**study.model_dump(mode="json"), "name": "own"})
    put = ask(pack(PutStudy(), sign_study(own, own_key())))
    asked = ask(pack(Answer(study=own.digest, step="train", round=1), bytes(24)))
    return kind_of(put) == "accepted" or kind_of(asked) in ("need-witness", "release")


def use_up_its_memory():
    def resident():
        return int((PROC / "status").read_text().split("VmRSS:")[1].split()[0])

    before = resident()
    for announced in (0xFFFFFFFF, 1 << 30):
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(5)
            client.connect(str(STATE / "gate.sock"))
            client.sendall(struct.pack("!I", announced))
            for _ in range(64):
                client.sendall(bytes(1 << 20))
    return resident() - before > 32 * 1024


def stop_it_with(bytes_sent):
    """Send something and hang up; it succeeds if the gate does not answer after that."""

    def probe():
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(5)
            client.connect(str(STATE / "gate.sock"))
            client.sendall(bytes_sent)
            time.sleep(0.1)
        return not answers()

    return probe


def stop_it_with_connections():
    clients = []
    with contextlib.suppress(OSError):
        for _ in range(300):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            clients.append(client)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(STATE / "gate.sock"))
    for client in clients:
        client.close()
    return not answers()


LEDGER = STATE / "gate" / "ledger.sqlite"
PROBES = {
    "read the data": can_read(SITE / "patients.csv"),
    "list the data": can_list(SITE),
    "change the data": can_write(SITE / "patients.csv"),
    "read the policy": can_read(SITE / "policy.toml"),
    "change the policy": can_write(SITE / "policy.toml"),
    "list the gate's state": can_list(STATE / "gate"),
    "read the ledger": can_read(LEDGER),
    "change the ledger": can_write(LEDGER),
    "lock the ledger": lock_the_ledger,
    "read the ledger's log of writes": can_read(LEDGER.with_name("ledger.sqlite-wal")),
    "read the ledger key": can_read(STATE / "gate" / "ledger.key"),
    "read the noise secret": can_read(STATE / "gate" / "noise.secret"),
    "read the split secret": can_read(STATE / "gate" / "split.secret"),
    "read the naming secret": can_read(STATE / "gate" / "naming.secret"),
    "read who was in the data": can_read(STATE / "gate" / "members"),
    "read the egress log": can_list(STATE / "gate" / "egress"),
    "write into the gate's state": can_create_in(STATE / "gate"),
    "pin a researcher's key": can_create_in(STATE / "gate" / "researchers"),
    "approve a study": can_create_in(STATE / "gate" / "studies"),
    "leave a file for the gate's scratch folder": can_create_in(STATE / "gate" / "tmp"),
    "write beside the socket": can_create_in(STATE),
    "leave a link where the gate will make its socket": can_create_in(STATE, lambda path: path.symlink_to("/etc")),
    "link the data into its own folder": link_the_data,
    "read the key by a symbolic link": read_the_key_by_a_symbolic_link,
    "replace the socket": replace(STATE / "gate.sock"),
    "remove the socket": remove(STATE / "gate.sock"),
    "replace the administrators' socket": replace(ADMIN),
    "remove the administrators' socket": remove(ADMIN),
    "give the gate an administrator's instructions": pause_and_resume,
    "watch the gate's state": watch(STATE / "gate"),
    "watch the data": watch(SITE),
    "watch all files": lambda: call(FANOTIFY_INIT, 4, 0) >= 0,
    "find the gate's files in /dev/shm": find_files_left_in("/dev/shm"),
    "connect to a socket of the gate's administrator": connect_to(ADMIN),
    "read the gate's memory": read_memory,
    "open the gate's memory to write": write_memory_file,
    "copy out of the gate's memory": copy_memory(VM_READ),
    "copy into the gate's memory": copy_memory(VM_WRITE),
    "trace the gate": trace,
    "seize the gate": in_a_child(seize),  # which lets go of it by ending
    "read the gate's environment": can_read(PROC / "environ"),
    "read the gate's map of memory": can_read(PROC / "maps"),
    "list the gate's descriptors": can_list(PROC / "fd"),
    "open the gate's files by descriptor": open_its_files,
    "take a descriptor from the gate": take_a_descriptor,
    "enter the gate's root folder": can_resolve("root"),
    "enter the gate's working folder": can_resolve("cwd"),
    "enter the gate's network": enter_its("net", NEW_NET),
    "enter the gate's mounts": enter_its("mnt", NEW_NS),
    "read the gate's stack": can_read(PROC / "stack"),
    "read the gate's system call": can_read(PROC / "syscall"),
    "signal the gate": signal_it,
    "signal the gate by descriptor": signal_it_by_descriptor,
    "slow the gate down": slow_it_down,
    "pin the gate to a processor": pin_it,
    "change the gate's limits": limit_it,
    "offer the gate to the out-of-memory killer": write_file_of_process("oom_score_adj", "900"),
    "ask for the gate's core dump": write_file_of_process("coredump_filter", "0x7f"),
    "become the gate's user": in_a_child(become_the_gate),
    "become root": in_a_child(become_root),
    "become root by a set-user-id program": become_root_by_a_program,
    "read the data as root of a namespace": in_a_child(read_data_as_root_of_a_namespace),
    "read physical memory": can_read("/dev/mem"),
    "read the kernel's memory": can_read("/proc/kcore"),
    "find the gate's keys in the kernel": find_keys_of_the_kernel,
    "read the gate's keyring": read_its_keyring,
    "find the gate's shared memory": find_shared_memory,
    "preload a library into the gate": can_create_in("/etc"),
    "plant code in the program": can_create_in(PACKAGE),
    "change the service's unit": can_create_in("/etc/systemd/system"),
    "forge a release": forge_a_release,
    "forge an acceptance": forge_an_acceptance,
    "use one signature for another": use_one_signature_for_another,
    "witness a charge itself": witness_it_itself,
    "have a release without a witness": have_a_release_unwitnessed,
    "have its own study run": have_its_own_study_run,
    "use up the gate's memory": use_up_its_memory,
    "stop the gate with half a frame": stop_it_with(struct.pack("!I", 1000) + b"half"),
    "stop the gate with half a length": stop_it_with(b"\0\0"),
    "stop the gate with garbage": stop_it_with(os.urandom(4096)),
    "stop the gate with an empty frame": stop_it_with(struct.pack("!I", 0)),
    "stop the gate with connections": stop_it_with_connections,
    # What only the node's own confinement (or its unit) keeps it from: nothing of these is the gate's.
    "connect to another service": connect_abroad,
    "connect to an abstract socket": connect_abstract,
    "listen": listen_somewhere,
    "mount in a namespace of its own": in_a_child(mount_over),
    "execute a shell": execute_a_shell,
    "signal another process of its own user": signal_another_of_its_user,
    "write to /tmp": can_create_in("/tmp"),
    "write to /dev/shm": can_create_in("/dev/shm"),
}

if __name__ == "__main__":
    outcome = {}
    for name, probe in PROBES.items():
        try:
            outcome[name] = "succeeded" if probe() else "no effect"
        except (OSError, subprocess.SubprocessError) as error:
            outcome[name] = f"{type(error).__name__}: {error.strerror if isinstance(error, OSError) else error}"
        except Exception as error:
            outcome[name] = f"defect of the probe: {type(error).__name__}: {error}"
    outcome["the gate answers at the end"] = answers()
    sys.stdout.write(json.dumps(outcome) + "\n")
