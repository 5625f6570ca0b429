"""What a compliance officer reads of a site, from its gate's state folder: the verified ledger and the signed studies.

Torch-free. The ledger is verified first, always; of the studies only those count that the ledger approved, and each
must be the file that its researcher signed. The local journal stays where it is: nothing here reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.privacy.checkpoint import Checkpoint
from fedhealth.privacy.decisions import FirstApproval, Rejected
from fedhealth.privacy.entries import ENTRY, Account, Approved, Created
from fedhealth.privacy.head_checks import check_seen
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.release import Digest
from fedhealth.privacy.verified_ledger import LedgerContents
from fedhealth.privacy.verify import read_ledger
from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES, AnySigned, open_signed

_DECISIONS = (b'"kind":"first-approval"', b'"kind":"rejected"', b'"kind":"approved"')


@dataclass(frozen=True)
class History:
    """A verified ledger and the studies that it approved.

    Attributes:
        ledger: what the ledger holds.
        studies: signed studies by digest; one that was approved may be missing here.
    """

    ledger: LedgerContents
    studies: Mapping[Digest, AnySigned]

    @property
    def account(self) -> Account:
        """The account that the ledger's entries add up to."""
        return self.ledger.account

    @property
    def created(self) -> Created:
        """The ledger's first entry."""
        assert self.account.created is not None  # noqa: S101 - a verified ledger has one
        return self.account.created

    def check_seen(self, note: str) -> Checkpoint:
        """Return the head of a signed note that somebody else kept, if this ledger extends it.

        Raises:
            LedgerDamaged, IdentityInvalid: as in `fedhealth.privacy.head_checks.check_seen`.
        """
        tree = MerkleTree()
        for entry in self.ledger.entries:
            tree.append(leaf_hash(entry))
        return check_seen(note, self.account, tree)

    @cached_property
    def first_approvals(self) -> Mapping[Digest, FirstApproval]:
        """The first of the two people who approved a study, for each study that two people opened."""
        first: dict[Digest, FirstApproval] = {}
        opened: dict[Digest, FirstApproval] = {}
        for body in self.ledger.entries:
            if any(kind in body for kind in _DECISIONS):
                entry = ENTRY.validate_json(body)
                if isinstance(entry, FirstApproval):
                    first[entry.study] = entry
                elif isinstance(entry, Rejected):
                    first.pop(entry.study, None)
                elif isinstance(entry, Approved) and entry.study in first:
                    opened[entry.study] = first[entry.study]
        return opened

    def with_studies(self, signed: Mapping[Digest, bytes]) -> "History":
        """Return the same with the texts of approved studies that were missing, where they are among the given.

        Raises:
            IdentityInvalid: one is not the one that was approved.
        """
        missing = (self.account.approved.keys() - self.studies.keys()) & signed.keys()
        found = {study: approved_study(signed[study], study, self.account) for study in missing}
        return replace(self, studies={**self.studies, **found})


def read_gate(path: Path, seen: str | None = None) -> History:
    """Verify a site's ledger and read the studies that it approved.

    Args:
        path: a gate's state folder, or the ledger's file in it; a copy will do.
        seen: as in `read_ledger`.

    Raises:
        LedgerDamaged, IdentityInvalid: as in `read_ledger`.
        IdentityInvalid: a study is not the one that was signed and approved.
    """
    ledger = read_ledger(path, seen)
    folder = path if path.is_dir() else path.parent
    studies = {}
    for study in ledger.account.approved:
        file = folder / "studies" / f"{study}.json"
        if file.is_file():
            try:
                studies[study] = approved_study(file.read_bytes(), study, ledger.account)
            except IdentityInvalid as error:
                raise IdentityInvalid(
                    f"the signed study {file} was changed",
                    got=error.got,
                    wanted="the file that was approved",
                    next_step="Keep it as evidence and ask the researcher for the original. The ledger is intact: "
                    f"fedhealth audit verify {path}",
                ) from error
    return History(ledger, studies)


def read_studies(folder: Path) -> dict[Digest, bytes]:
    """Return the signed studies in a folder by digest: every file there whose name ends in .signed or .json.

    Raises:
        ConfigInvalid: there is no such folder.
        IdentityInvalid: a file is no signed study, or was changed.
    """
    if not folder.is_dir():
        raise ConfigInvalid(f"there is no folder {folder}", next_step="Give the folder that holds the signed studies.")
    studies = {}
    for file in sorted(each for pattern in ("*.signed", "*.json") for each in folder.glob(pattern)):
        with file.open("rb") as opened:
            data = opened.read(MAX_SIGNED_STUDY_BYTES + 1)
        try:
            studies[open_signed(data).study.digest] = data
        except IdentityInvalid as error:
            raise IdentityInvalid(
                f"{file} is no signed study", got=error.got, wanted=error.wanted, next_step="Take it out of the folder."
            ) from error
    return studies


def approved_study(data: bytes, study: Digest, account: Account) -> AnySigned:
    """Return a signed study if it is the one that the account approved under this digest.

    Raises:
        IdentityInvalid: it is another study, another researcher's, or not signed.
    """
    signed = open_signed(data)
    approval = account.approved.get(study)
    if signed.study.digest != study or approval is None or approval.researcher != signed.researcher:
        raise IdentityInvalid(
            f"study '{signed.study.name}' is not the one that was approved",
            got=f"study {signed.study.digest[:12]} of key {signed.researcher[:12]}",
            next_step="Ask the researcher for the original.",
        )
    return signed
