"""What a compliance officer reads of a site, from its gate's state folder: the verified ledger and the signed studies.

Torch-free. The ledger is verified first, always; of the studies only those count that the ledger approved, and each
must be the file that its researcher signed. The local journal stays where it is: nothing here reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import IdentityInvalid
from fedhealth.privacy.entries import Account, Created
from fedhealth.privacy.release import Digest
from fedhealth.privacy.verified_ledger import LedgerContents
from fedhealth.privacy.verify import read_ledger
from fedhealth.study.signature import SignedStudy, open_signed_study


@dataclass(frozen=True)
class History:
    """A verified ledger and the studies that it approved.

    Attributes:
        ledger: what the ledger holds.
        studies: signed studies by digest; one that was approved may be missing here.
    """

    ledger: LedgerContents
    studies: Mapping[Digest, SignedStudy]

    @property
    def account(self) -> Account:
        """The account that the ledger's entries add up to."""
        return self.ledger.account

    @property
    def created(self) -> Created:
        """The ledger's first entry."""
        assert self.account.created is not None  # noqa: S101 - a verified ledger has one
        return self.account.created


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
    folder = (path if path.is_dir() else path.parent) / "studies"
    studies = {}
    for study in ledger.account.approved:
        file = folder / f"{study}.json"
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


def approved_study(data: bytes, study: Digest, account: Account) -> SignedStudy:
    """Return a signed study if it is the one that the account approved under this digest.

    Raises:
        IdentityInvalid: it is another study, another researcher's, or not signed.
    """
    signed = open_signed_study(data)
    approval = account.approved.get(study)
    if signed.study.digest != study or approval is None or approval.researcher != signed.researcher:
        raise IdentityInvalid(
            f"study '{signed.study.name}' is not the one that was approved",
            got=f"study {signed.study.digest[:12]} of key {signed.researcher[:12]}",
            next_step="Ask the researcher for the original.",
        )
    return signed
