"""What a site keeps beside its data: two folders that never mix, made once by `fedhealth site init`.

`gate/` holds the ledger, the ledger key and the three secrets; `node/` holds the TLS key and where the coordinator
is. In a hospital each belongs to its own Unix user. The three secrets are independent draws from the operating
system: **noise** (never backed up), **split** (only where the data are not public) and **naming** (recognises a
change of the data, and patients who withdrew their consent).
"""

import os
import pwd
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.policy.rules import DataSetBudget, load_policy
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.accountant import AnyBudget, open_budget
from fedhealth.privacy.acts import PolicyChanged
from fedhealth.privacy.anchor import AnchorFile, check_anchor, tie_anchor
from fedhealth.privacy.entries import Created
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.ledger_file import copy_ledger
from fedhealth.privacy.stream import NoiseSecret, SiteNoiseSecret, UnsafeFixedNoiseSecret
from fedhealth.records.members import MemberHistory
from fedhealth.secret_file import create_file, read_secret, sync_folder
from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex
from fedhealth.site.article_folders import FETCHED, PUBLISHED
from fedhealth.site.hold import LedgerHold

SOCKET_NAME = "gate.sock"


@dataclass(frozen=True)
class SiteState:
    """Where the parts of a site's state are.

    Attributes:
        root: the site's state folder.
    """

    root: Path

    @property
    def gate(self) -> Path:
        """Folder of the gate's user."""
        return self.root / "gate"

    @property
    def node(self) -> Path:
        """Folder of the node's user."""
        return self.root / "node"

    @property
    def socket(self) -> Path:
        """The socket between them."""
        return self.root / SOCKET_NAME

    @property
    def administrators_socket(self) -> Path:
        """The administrators' socket, in a folder that the node's user cannot enter."""
        return self.gate / "admin.sock"

    @property
    def counts_socket(self) -> Path:
        """The node's socket for what other hospitals are to count: in a folder of those who ask, if there is one."""
        return (self.askers if self.askers.is_dir() else self.node) / "counts.sock"

    @property
    def askers(self) -> Path:
        """Beside the state: folder of the node and the group of those who may ask; made by an administrator."""
        root = self.root.absolute()
        return root.with_name(f"{root.name}-askers")

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.gate / "ledger.sqlite"

    @property
    def anchor(self) -> AnchorFile:
        """The last head of the ledger, outside it."""
        return AnchorFile(self.gate / "ledger.anchor")

    @property
    def hold(self) -> LedgerHold:
        """The mark of a ledger that is behind or of another history, and what the coordinator gave back."""
        return LedgerHold(self.gate)

    @property
    def studies(self) -> Path:
        """Signed studies that were approved here, one file each, named by digest."""
        return self.gate / "studies"

    @property
    def index(self) -> Path:
        """Folder of the index for the site's own searches, made by `fedhealth site index add`."""
        return self.gate / "index"

    @property
    def published(self) -> Path:
        """Folder of the corpora that this site publishes; no process of the site may write there."""
        return self.root / PUBLISHED

    @property
    def fetched(self) -> Path:
        """Folder of the corpora of other sites, which the node fetches."""
        return self.root / FETCHED

    def ledger_key(self) -> Ed25519PrivateKey:
        """Return the key that signs the ledger's heads."""
        return load_signing_key(self.gate / "ledger.key")

    def open_ledger(self, site: str) -> Ledger:
        """Open the ledger, tied to its anchor.

        Raises:
            LedgerBehind, LedgerForked: it is held, or not what its anchor says: no charge may be written to it.
            AnchorMissing: nothing here tells whether it is an older copy; nor may one be written then.
            LedgerDamaged, IdentityInvalid: as `Ledger.open`.
        """
        self.hold.check(site)
        ledger = self.open_untied_ledger(site)
        try:
            tie_anchor(ledger, self.anchor)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @contextmanager
    def copied_ledger(self, site: str) -> Iterator[Ledger]:
        """Open a copy of the ledger as of one moment, to look at; the gate may be running. What is written is lost.

        The copy lies in the gate's folder, because the journal is in it.

        Raises:
            LedgerBehind, LedgerForked, LedgerDamaged, IdentityInvalid: as `open_ledger`.
        """
        self.hold.check(site)
        with tempfile.TemporaryDirectory(prefix="look-", dir=self.gate) as folder:
            copy = Path(folder) / self.ledger.name
            anchor = self.anchor.read()  # first: a gate may move both meanwhile
            if self.ledger.exists():  # else opening the copy says that it is missing
                copy_ledger(self.ledger, copy)
            ledger = Ledger.open(copy, site, self.ledger_key(), self._next_key())
            try:
                check_anchor(ledger, anchor)
                yield ledger
            finally:
                ledger.close()

    def open_untied_ledger(self, site: str) -> Ledger:
        """Open the ledger whatever its anchor says, for showing its head and for recovering it; nothing else may.

        Finishes a rotation of its key that a crash interrupted.

        Raises:
            LedgerDamaged, IdentityInvalid: as `Ledger.open`.
        """
        next_key = self._next_key()
        ledger = Ledger.open(self.ledger, site, self.ledger_key(), next_key)
        if next_key is not None and ledger.public_key == public_key_hex(next_key.public_key()):
            self.take_next_ledger_key()
        return ledger

    @contextmanager
    def opened_ledger(self, site: str) -> Iterator[Ledger]:
        """Open the ledger for one command, and close it; the gate must not be running."""
        ledger = self.open_ledger(site)
        try:
            yield ledger
        finally:
            ledger.close()

    @property
    def next_ledger_key(self) -> Path:
        """The file of a key that is about to take the place of the ledger's key."""
        return self.gate / "ledger.key.next"

    def _next_key(self) -> Ed25519PrivateKey | None:
        with suppress(IdentityInvalid):  # a file that a crash cut short was never written into the ledger
            return load_signing_key(self.next_ledger_key)
        return None

    def take_next_ledger_key(self) -> None:
        """Put the next key in the place of the ledger's key, which is gone for good; the ledger must say so already."""
        self.next_ledger_key.replace(self.gate / "ledger.key")
        sync_folder(self.gate)

    def naming_secret(self) -> bytes:
        """Return the key under which a change of the data, and a patient's mark, are recognised."""
        return read_secret(self.gate / "naming.secret")

    def copies_secret(self) -> bytes:
        """Return the key under which the coordinator keeps copies of the ledger's entries."""
        return read_secret(self.gate / "copies.secret")

    def members(self) -> MemberHistory:
        """Return who was in the data at each version."""
        return MemberHistory(self.gate / "members")

    def split_key(self, public: str | None) -> bytes:
        """Return the key of the held-out split: the site's own, or the public one of public data."""
        return bytes.fromhex(public) if public else read_secret(self.gate / "split.secret")

    def noise_secret(self, created: Created) -> NoiseSecret:
        """Return the noise secret; a known one is accepted only where the ledger's first entry allows it.

        Raises:
            ConfigInvalid: a fixed secret stands at a site that was not created for tests.
        """
        fixed = self.gate / "unsafe-fixed-noise-seed"
        if not fixed.exists():
            return SiteNoiseSecret(read_secret(self.gate / "noise.secret"))
        if not created.unsafe_test_site:
            raise ConfigInvalid(
                f"site '{created.site}' has a fixed noise seed and is not a test site",
                wanted="a noise secret from the operating system",
                next_step="Remove the file unsafe-fixed-noise-seed; find out who put it there.",
            )
        return UnsafeFixedNoiseSecret(int(fixed.read_text()))


def init_site(
    folder: Path,
    state: SiteState,
    witness_key: str,
    researchers: dict[str, str],
    unsafe_noise_seed: int | None = None,
) -> str:
    """Make a site's gate state: ledger, ledger key, secrets, pinned keys.

    Args:
        folder: the site's folder, with `site.toml` and `policy.toml`.
        state: where to; its `gate/` must not exist.
        witness_key: the coordinator's public key, 64 hexadecimal digits.
        researchers: public keys to pin, by name.
        unsafe_noise_seed: makes a test site with known noise; the ledger says so for ever.

    Returns:
        The ledger's public key, which the coordinator pins.

    Raises:
        ConfigInvalid: a file of the site is wrong, or the state exists already.
    """
    site, (policy, policy_sha256) = load_site_file(folder), load_policy(folder)
    if site.data_set.name not in policy.budget:
        raise ConfigInvalid(
            f"policy file {folder / 'policy.toml'} sets no budget for data set '{site.data_set.name}'",
            got=f"budgets for {sorted(policy.budget)}",
            next_step=f"Add [budget.{site.data_set.name}] with epsilon and delta.",
        )
    if others := sorted(policy.budget.keys() - {site.data_set.name}):
        raise ConfigInvalid(
            f"policy file {folder / 'policy.toml'} sets budgets for data sets that site '{site.id}' does not have",
            got=", ".join(others),
            wanted=f"[budget.{site.data_set.name}] alone",
            next_step="Remove them: under another name the same patients would have a second budget.",
        )
    try:
        state.gate.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise ConfigInvalid(
            f"site '{site.id}' has state at {state.gate} already",
            next_step="It is never overwritten: it knows what was spent. For another site choose another folder.",
        ) from error
    state.studies.mkdir(mode=0o700)
    create_file(state.gate / "naming.secret", secrets.token_bytes(32))
    create_file(state.gate / "copies.secret", secrets.token_bytes(32))
    if not site.public_data:
        create_file(state.gate / "split.secret", secrets.token_bytes(32))
    if unsafe_noise_seed is None:
        create_file(state.gate / "noise.secret", secrets.token_bytes(32))
    else:
        create_file(state.gate / "unsafe-fixed-noise-seed", str(unsafe_noise_seed).encode())
    public = public_key_hex(create_signing_key(state.gate / "ledger.key"))
    created = Created(
        site=site.id,
        ledger_key=public,
        witness_key=witness_key,
        budgets={name: _open_budget(name, budget) for name, budget in policy.budget.items()},
        researchers=researchers,
        unsafe_test_site=unsafe_noise_seed is not None,
        at=time.time_ns() // 10**6,
    )
    ledger = Ledger.create(state.ledger, created, state.ledger_key())
    try:
        ledger.append(PolicyChanged(policy_sha256=policy_sha256, by=local_user(), at=created.at))
        state.anchor.create(ledger.size, ledger.root(ledger.size), ledger.relied_on, ledger.journal_size)
    finally:
        ledger.close()
    return public


def _open_budget(name: str, budget: DataSetBudget) -> AnyBudget:
    work = budget.expected_work
    try:
        return open_budget(budget.epsilon, budget.delta, work.sampling_rate, work.rounds)
    except ValueError as error:
        raise ConfigInvalid(
            f"the budget of data set '{name}' in policy.toml does not fit the work that is expected of it",
            got=str(error),
            next_step=f"Correct [budget.{name}]: more epsilon, or fewer rounds in expected_work.",
        ) from error


def local_user() -> str:
    """Return the name under which an approval is recorded: the Unix user of this process."""
    return user_name(os.getuid())


def user_name(user: int) -> str:
    """Return the name under which the acts of a Unix user are recorded."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # in a container, a user need not have a name
        return f"uid-{user}"
