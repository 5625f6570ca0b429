"""The coordinator's word for whose a ledger key is, written down when the site joined, against the ledger beside it.

The certificate names federation, site and ledger key, under the coordinator's witness key, which the ledger's first
entry names too. A site that joined again after its key was rotated has one for the newer key. Who forges a whole ledger
can forge this file with it under a witness key of their own: against that the witness key must come from elsewhere.

Leaves to others: the ledger itself (`fedhealth.privacy.verify`); how the certificate is issued (`fedhealth.link`).
"""

from pathlib import Path

from pydantic import ValidationError

from fedhealth.errors import IdentityInvalid
from fedhealth.link.enrolment import LEDGER_CERTIFICATE_FILE, LedgerCertificate
from fedhealth.privacy.verified_ledger import VerifiedLedger
from fedhealth.secret_file import read_file


def check_witness_key(ledger: VerifiedLedger, witness_key: str) -> None:
    """Return if a ledger was made for the coordinator of this witness key.

    Args:
        ledger: as it was verified.
        witness_key: as the coordinator's operator told it, 64 hexadecimal digits.

    Raises:
        IdentityInvalid: it was made for another.
    """
    if ledger.witness_key != witness_key.lower():
        raise IdentityInvalid(
            f"the ledger of site '{ledger.head.site}' is countersigned by another coordinator",
            got=f"witness key {ledger.witness_key[:16]}... in its first entry",
            wanted=f"{witness_key[:16]}...",
            next_step="Ask the coordinator's operator for the witness key; if it is right, this is not the ledger that "
            "the site joined with.",
        )


def certificate_beside(path: Path, ledger: VerifiedLedger) -> LedgerCertificate | None:
    """Return the certificate that lies beside a ledger, if it is of this ledger; None if there is none.

    Args:
        path: the ledger's SQLite file, or the folder that holds it; or a bundle.
        ledger: as it was verified.

    Raises:
        IdentityInvalid: it cannot be read, is not signed by the ledger's witness key, or is for another site or key.
    """
    file = (path if path.is_dir() else path.parent) / LEDGER_CERTIFICATE_FILE
    if not file.exists() and not file.is_symlink():
        return None
    try:
        certificate = LedgerCertificate.model_validate_json(read_file(file))
    except ValidationError as error:
        raise _wrong(
            file, "no certificate of a ledger key", "the file as it was written when the site joined"
        ) from error
    try:
        certificate.check(ledger.witness_key)
    except IdentityInvalid as error:
        raise _wrong(file, "another signature", f"one of witness key {ledger.witness_key[:16]}...") from error
    if certificate.site != ledger.head.site:
        raise _wrong(file, f"one for site '{certificate.site}'", f"one for site '{ledger.head.site}'")
    if certificate.ledger_key not in ledger.ledger_keys:
        got = f"one for ledger key {certificate.ledger_key[:16]}..."
        raise _wrong(file, got, " or ".join(f"{key[:16]}..." for key in ledger.ledger_keys))
    return certificate


def _wrong(file: Path, got: str, wanted: str) -> IdentityInvalid:
    return IdentityInvalid(
        f"{file} does not belong to the ledger beside it",
        got=got,
        wanted=wanted,
        next_step="Find out who changed one of the two; the coordinator has pinned the key that the site joined with.",
    )
