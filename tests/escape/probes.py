"""What a node that was taken over would try against its gate; run as a program, prints what succeeded as JSON.

Arguments: mode ("confined": after the node's own confinement; "supernode" and "worker": after theirs; "plain": as its
Unix user only), the gate's process id, the site's folder, its state folder, the coordinator's port, another service's
port, a process id of the node's own user, the gate's user id, and the signed study. A probe succeeds when it returns
true; an error means that it was stopped.
"""

import json
import os
import struct
import subprocess
import sys

from probe_target import (
    ADMIN,
    FANOTIFY_INIT,
    MODE,
    NEW_NET,
    NEW_NS,
    PACKAGE,
    PORT,
    PROC,
    SITE,
    STATE,
    VM_READ,
    VM_WRITE,
    call,
)
from probes_of_files import (
    can_create_in,
    can_list,
    can_read,
    can_resolve,
    can_write,
    find_files_left_in,
    link_the_data,
    lock_the_ledger,
    read_the_key_by_a_symbolic_link,
    remove,
    replace,
    watch,
)
from probes_of_processes import (
    become_root,
    become_root_by_a_program,
    become_the_gate,
    copy_memory,
    enter_its,
    execute_a_shell,
    find_keys_of_the_kernel,
    find_shared_memory,
    in_a_child,
    limit_it,
    mount_over,
    open_its_files,
    pin_it,
    read_data_as_root_of_a_namespace,
    read_its_keyring,
    read_memory,
    seize,
    signal_another_of_its_user,
    signal_it,
    signal_it_by_descriptor,
    slow_it_down,
    take_a_descriptor,
    trace,
    write_file_of_process,
    write_memory_file,
)
from probes_of_the_gate import (
    answers,
    change_a_question_while_the_gate_reads_it,
    connect_abroad,
    connect_abstract,
    connect_to,
    find_in_shared_memory_what_did_not_leave,
    forge_a_release,
    forge_an_acceptance,
    have_a_release_unwitnessed,
    have_its_own_study_run,
    listen_somewhere,
    pause_and_resume,
    pin_a_key,
    resize_shared_memory,
    seal_shared_memory,
    stop_it_by_half_a_frame_in_shared_memory,
    stop_it_with,
    stop_it_with_connections,
    use_one_signature_for_another,
    use_up_its_descriptors,
    use_up_its_memory,
    witness_it_itself,
)

# What is imported above is defined before the confinement, and runs after it.
if MODE == "confined":
    from fedhealth.site.confinement import confine_node

    confine_node(STATE, PORT)
elif MODE == "supernode":
    from fedhealth.site.confinement import confine_supernode

    confine_supernode(STATE / "node" / "flower", STATE / "node" / "flower" / "home", PORT, PORT)
elif MODE == "worker":
    from fedhealth.site.confinement import confine_worker

    confine_worker(STATE / "node" / "flower", PORT)


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
    "list the index of its searches": can_list(STATE / "gate" / "index"),
    "read the index of its searches": can_read(STATE / "gate" / "index" / "current"),
    "change the index of its searches": can_create_in(STATE / "gate" / "index"),
    "watch the index of its searches": watch(STATE / "gate" / "index"),
    "read the egress log": can_list(STATE / "gate" / "egress"),
    "write into the gate's state": can_create_in(STATE / "gate"),
    "pin a researcher's key": pin_a_key,
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
    "shrink the memory that the gate shares": resize_shared_memory(0),
    "grow the memory that the gate shares": resize_shared_memory(2**30),
    "seal the memory that the gate shares": seal_shared_memory,
    "find in shared memory what did not leave": find_in_shared_memory_what_did_not_leave,
    "change a question while the gate reads it": change_a_question_while_the_gate_reads_it,
    "use up the gate's descriptors": use_up_its_descriptors,
    "stop the gate by half a frame in shared memory": stop_it_by_half_a_frame_in_shared_memory,
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

if MODE != "confined":  # what is the node's own, and not its SuperNode's
    PROBES |= {
        "read the node's key": can_read(STATE / "node" / "tls.pem"),
        "list the node's folder": can_list(STATE / "node"),
        "write into the node's folder": can_create_in(STATE / "node"),
        "point the node at another coordinator": can_write(STATE / "node" / "node.toml"),
        "leave a file beside its own key": can_create_in(STATE / "node" / "flower"),
        "change its own key": can_write(STATE / "node" / "flower" / "node.key"),
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
