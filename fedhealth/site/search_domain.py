"""How a process that searches, or fills the index, enters the gate's domain: its user, no network, last in every queue.

It has patients' texts and is no gate: it holds no ledger, no secret and no socket. What it must know of the ledger, who
withdrew the consent, is read before it gives up everything but the index and, to fill it, the site's folder.

**Rule 0 and the load.** A reply of the gate leaves at a public time after its question. Only a reply that could not be
computed by then leaves later, and that shows. So whatever is done here must not take from a gate that computes: these
processes are the kernel's last choice for the processor (`SCHED_IDLE`; a clinician's search, which somebody waits for,
is of the lowest priority above that, a seventieth of the gate's share), for the disk (idle class) and the first to go
when memory runs out, and each has one thread. What is left is well within the quarter by which public durations exceed
what was measured. A search waits while the gate computes a round, not the other way round. At a site that never joined
a federation nobody times replies, and nothing is given up.

Invariants: called while the process has one thread, before numpy or tantivy start others. Run by root, it becomes the
user whom the gate's folder belongs to; by anybody else, it ends.
"""

import ctypes
import logging
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedhealth.errors import ConfigInvalid
from fedhealth.site.confinement import confine_index
from fedhealth.site.file_rights import groups_of
from fedhealth.site.isolation import has_network, leave_network
from fedhealth.site.landlock import Sandbox

if TYPE_CHECKING:
    from fedhealth.site.search_consent import Consent

_LOG = logging.getLogger(__name__)

_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
)
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IDLE_DISK = 3 << 13
_LOWEST_NICENESS = 19
_NO_LOGIN = 2**32 - 1
_OFFERED_FIRST = "800"
"""To the kernel when memory runs out, of 1000; a gate is at 0."""


@dataclass(frozen=True)
class SearchDomain:
    """What a process has that is in the domain.

    Attributes:
        index: the index's folder.
        consent: who withdrew the consent, as the journal has it.
        sandbox: what the kernel confines.
        asker: the Unix user for whom it works.
    """

    index: Path
    consent: "Consent"
    sandbox: Sandbox
    asker: str


def enter_search_domain(root: Path, folder: Path | None, *, background: bool) -> SearchDomain:
    """Take the last place in every queue, become the gate's user, leave the network, and give up all other files.

    Args:
        root: the site's state folder.
        folder: the site's folder, to read what is to be indexed and make the index if there is none; None for a
            process that reads the index alone.
        background: nobody waits for it.

    Raises:
        ConfigInvalid: this user is neither the gate's nor root; or there is no index, and no folder to make it from;
            or withdrawals could not be recognised.
        LedgerDamaged: the ledger is held, or cannot be read, so nobody can say who must not be found.
    """
    asker = _asking_user()  # who asks cannot be seen any more from where this goes
    _become_last(root, background)
    # Not before: with them comes numpy, which starts threads unless it is told not to.
    from fedhealth.site.search_consent import make_index_folder, no_index, read_consent
    from fedhealth.site.state import SiteState, user_name

    state = SiteState(root)
    if folder is None and not state.index.is_dir():
        raise no_index(state)
    consent, index, name = read_consent(state, folder), make_index_folder(state), user_name(asker)
    read = (folder, state.published, state.fetched) if folder else ()
    return SearchDomain(index, consent, confine_index(index, *read), name)


def enter_reading_domain(root: Path, folder: Path) -> Sandbox:
    """As `enter_search_domain`, to read the site's folder and the index, if there is one, and answer by a pipe."""
    _become_last(root, background=True)
    return confine_index(root / "gate" / "index", folder)


def _become_last(root: Path, background: bool) -> None:
    """Become the gate's user, last in every queue and without a network."""
    gate = (root / "gate").stat()
    owner = gate.st_uid
    if os.geteuid() not in (0, owner):
        raise ConfigInvalid(
            "this user may not search this site's records, or fill their index",
            got=f"user number {os.geteuid()}",
            wanted=f"the gate's, number {owner}",
            next_step="Run it as that user: sudo -u fedhealth-gate fedhealth ... (docs/search.md)",
        )
    for name in _ONE_THREAD:
        os.environ[name] = "false" if name == "TOKENIZERS_PARALLELISM" else "1"
    if (root / "node").exists():
        _yield_to_the_gate(background)
    if not leave_network(frozenset({os.geteuid()})) and has_network():
        _LOG.warning(
            "the index keeps its network here, but for TCP: let the service manager take it away (PrivateNetwork=yes)"
        )
    if os.geteuid() == 0 != owner:
        _become(owner, gate.st_gid)
    os.umask(0o077)


def _asking_user() -> int:
    """Return the user for whom this process works: the login that the kernel keeps, who called sudo, or its own."""
    with suppress(OSError, ValueError):
        if (login := int(Path("/proc/self/loginuid").read_text())) != _NO_LOGIN:
            return login
    caller = os.environ.get("SUDO_UID", "")
    return int(caller) if caller.isdecimal() else os.getuid()


def _become(user: int, group: int) -> None:
    _, groups = groups_of(str(user))
    os.setgroups(sorted(groups))
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _yield_to_the_gate(background: bool) -> None:
    # Each of them is this process's own to lower; where a kernel knows one of them not, the others do.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_NICENESS)
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE if background else os.SCHED_BATCH, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OFFERED_FIRST)
    if number := _IOPRIO_SET.get(platform.machine()):
        ctypes.CDLL(None).syscall(number, 1, 0, _IDLE_DISK)
