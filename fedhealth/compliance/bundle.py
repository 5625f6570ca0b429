"""One signed file that a regulator can verify with this program alone: what a site's ledger says, without the site.

The bundle leaves the hospital, so Rule 0 holds: it carries what is independent of patients. That is the ledger's
entries, its signed head, the coordinator's receipt and the signed studies. The local journal, the salts that open an
entry's commitment to it, and payloads do not go along, and no option sends them: whoever must see the journal reads
it at the hospital.

The form, one byte string for one content:

| line | content |
|---|---|
| first | `fedhealth ledger bundle 1` |
| second | the manifest: canonical JSON of `Manifest` |
| one each | entries, in order; then signed studies, in order of their digests: canonical JSON |
| last | `signature ` and 128 hexadecimal digits: Ed25519 by the ledger's key over every byte before this line |

Canonical JSON has no line break within, each line must be what its own content is written as, and the last line ends
the file. So whatever changes, adds or takes away a byte breaks the form or the signature. A signature only says who
wrote the file, so everything in it is checked as `fedhealth.privacy.verify` checks a ledger: entries, account, head
and receipt. Compare the printed key with the one certified when the site joined.

Torch-free.
"""

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field

from fedhealth.canonical import canonical_bytes
from fedhealth.compliance.history import History, approved_study
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.acts import KeyRotated, Milliseconds
from fedhealth.privacy.checkpoint import SignedReceipt
from fedhealth.privacy.entries import ENTRY, Account, Created, Name, Reserved
from fedhealth.privacy.head_checks import check_head, check_receipt, check_witness
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.release import Cohort, Digest, SiteId
from fedhealth.privacy.verified_ledger import LedgerContents, Spending, describe
from fedhealth.signing import load_public_key, public_key_hex, sign, verify
from fedhealth.study.signature import SIGNED, AnySigned

MAGIC = b"fedhealth ledger bundle "
_FIRST = MAGIC + b"1"
_DOMAIN = "ledger-bundle"
_LAST = re.compile(rb"signature ([0-9a-f]{128})\n")
_ROTATED = b'"kind":"key-rotated"'
_LAST_BYTES = 10 + 128 + 1
_SHARES_AGREE = 1e-6
"""Two machines' logarithms may differ in their last bits; a change that anybody could care for is far larger."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class BudgetLine(BaseModel):
    """What one side of a data set has used: for people who open the file; the entries decide.

    Attributes:
        data_set: its name.
        cohort: which patients.
        epsilon: the cap, for the life of the data.
        delta: of the cap.
        share_spent: of the cap; binding.
        share_set_aside: what is spent or may still be spent by approved studies, of the cap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    data_set: Name
    cohort: Cohort
    epsilon: float
    delta: float
    share_spent: Share
    share_set_aside: Share


class Manifest(BaseModel):
    """What the bundle is.

    Attributes:
        kind: names the statement.
        site: whose ledger.
        unsafe_test_site: as in the ledger's first entry.
        by: the local user who exported it.
        at: when, in Unix milliseconds.
        entries: number of entries that follow.
        studies: number of signed studies that follow them.
        head: the signed note of the ledger's head.
        receipt: the coordinator's last receipt.
        budget: a summary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["fedhealth/ledger-bundle/1"] = "fedhealth/ledger-bundle/1"
    site: SiteId
    unsafe_test_site: bool
    by: Annotated[str, Field(min_length=1, max_length=256)]
    at: Milliseconds
    entries: Annotated[int, Field(ge=1, le=2**53 - 1)]
    studies: Annotated[int, Field(ge=0, le=2**53 - 1)]
    head: Annotated[str, Field(max_length=1024)]
    receipt: SignedReceipt | None
    budget: tuple[BudgetLine, ...]


def make_bundle(history: History, key: Ed25519PrivateKey, by: str, at_ms: int) -> bytes:
    """Return a site's bundle.

    Args:
        history: of the site, as `read_gate` verified it.
        key: the ledger's.
        by: the local user who exports.
        at_ms: now, in Unix milliseconds.

    Raises:
        IdentityInvalid: the key is another ledger's.
    """
    ledger, created = history.ledger, history.created
    if public_key_hex(key.public_key()) != ledger.verified.ledger_key:
        raise IdentityInvalid(
            f"this key does not sign the ledger of '{created.site}'",
            got=f"key {public_key_hex(key.public_key())[:12]}",
            wanted=f"key {ledger.verified.ledger_key[:12]}",
            next_step="Give the ledger.key that stands beside this ledger.",
        )
    studies = [canonical_bytes(history.studies[digest]) for digest in sorted(history.studies)]
    manifest = Manifest(
        site=created.site,
        unsafe_test_site=created.unsafe_test_site,
        by=by,
        at=at_ms,
        entries=len(ledger.entries),
        studies=len(studies),
        head=ledger.head,
        receipt=None if ledger.receipt is None else SignedReceipt.model_validate_json(ledger.receipt),
        budget=tuple(_budget_line(each) for each in ledger.verified.spending),
    )
    body = b"".join(line + b"\n" for line in (_FIRST, canonical_bytes(manifest), *ledger.entries, *studies))
    return body + b"signature " + sign(key, _DOMAIN, body).hex().encode() + b"\n"


def is_bundle(path: Path) -> bool:
    """Say whether a file calls itself a ledger bundle, of whatever format."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_bundle(data: bytes, seen: str | None = None) -> tuple[History, Manifest]:
    """Verify a bundle and return what it holds.

    Args:
        data: the whole file.
        seen: the signed note of a head of this ledger that somebody else kept, which the ledger must extend.

    Raises:
        LedgerDamaged: the form is broken, the format unknown, or the entries do not add up.
        IdentityInvalid: the signature over the file, over a head or over a study does not hold.
    """
    first = data.partition(b"\n")[0]
    if first != _FIRST:
        raise LedgerDamaged(
            "this bundle has a format that this version does not know",
            got=ascii(first[:60].decode(errors="replace")),
            wanted=_FIRST.decode(),
            next_step="Upgrade FedHealth first. If it is the newest, the file was changed.",
        )
    last = _LAST.fullmatch(data[-_LAST_BYTES:])
    lines = data[:-_LAST_BYTES].split(b"\n")
    if last is None or len(lines) < 4 or lines[-1] != b"":
        raise _changed("its end is missing, or something follows it")
    created = _first_entry(lines[2])
    key = load_public_key(_last_key(lines[2:-1], created))
    verify(key, _DOMAIN, data[:-_LAST_BYTES], bytes.fromhex(last[1].decode()))
    try:
        manifest = Manifest.model_validate_json(lines[1])
    except ValueError as error:
        raise _changed("its manifest cannot be read") from error
    content = lines[2:-1]
    if canonical_bytes(manifest) != lines[1] or len(content) != manifest.entries + manifest.studies:
        raise _changed("its manifest is of another bundle")
    ledger = _ledger_of(tuple(content[: manifest.entries]), manifest, created, seen)
    studies = _studies_of(content[manifest.entries :], ledger.account)
    if (manifest.site, manifest.unsafe_test_site) != (created.site, created.unsafe_test_site):
        raise _changed("its manifest names another site than its entries")
    if not _agree(manifest.budget, ledger.verified.spending):
        raise _changed("its summary of the budget is not what its entries add up to")
    return History(ledger, studies), manifest


def _last_key(lines: list[bytes], created: Created) -> Digest:
    """Return the key that the entries say signs the ledger at their end; the account checks that they may."""
    key = created.ledger_key
    for line in lines:
        if _ROTATED in line:
            with suppress(ValueError):
                entry = ENTRY.validate_json(line)
                key = entry.rotation.ledger_key if isinstance(entry, KeyRotated) else key
    return key


def _first_entry(line: bytes) -> Created:
    try:
        entry = ENTRY.validate_json(line)
    except ValueError as error:
        raise _changed("entry 0 cannot be read") from error
    if not isinstance(entry, Created):
        raise _changed("entry 0 creates no ledger")
    return entry


def _ledger_of(entries: tuple[bytes, ...], manifest: Manifest, created: Created, seen: str | None) -> LedgerContents:
    account, tree, charged = Account(), MerkleTree(), dict[str, int]()
    for position, line in enumerate(entries):
        try:
            entry = ENTRY.validate_json(line)
            account.apply(entry)
        except (FedHealthError, ValueError) as error:
            raise _changed(f"entry {position} cannot follow the entries before it") from error
        if canonical_bytes(entry) != line:
            raise _changed(f"entry {position} is not in canonical form")
        tree.append(leaf_hash(line))
        if isinstance(entry, Reserved):
            charged[entry.release] = position
    receipt = None if manifest.receipt is None else canonical_bytes(manifest.receipt)
    head, witnessed = check_head(manifest.head, account, tree, seen), check_receipt(receipt, created, tree)
    check_witness(account, charged, witnessed)
    return LedgerContents(describe(account, head, witnessed), account, entries, manifest.head, receipt)


def _studies_of(lines: list[bytes], account: Account) -> dict[Digest, AnySigned]:
    studies: dict[Digest, AnySigned] = {}
    for line in lines:
        try:
            digest = SIGNED.validate_json(line).study.digest
        except ValueError as error:
            raise _changed("a study cannot be read") from error
        if studies and digest <= max(studies):
            raise _changed("its studies are not in order")
        studies[digest] = approved_study(line, digest, account)
    return studies


def _budget_line(spending: Spending) -> BudgetLine:
    return BudgetLine(
        data_set=spending.data_set,
        cohort=spending.cohort,
        epsilon=spending.epsilon_cap,
        delta=spending.delta,
        share_spent=spending.share_spent,
        share_set_aside=spending.share_set_aside,
    )


def _agree(said: tuple[BudgetLine, ...], spending: tuple[Spending, ...]) -> bool:
    if len(said) != len(spending):
        return False
    for line, computed in zip(said, map(_budget_line, spending), strict=True):
        shares = {"share_spent": line.share_spent, "share_set_aside": line.share_set_aside}
        if computed.model_copy(update=shares) != line or not all(
            math.isclose(value, getattr(computed, name), abs_tol=_SHARES_AGREE) for name, value in shares.items()
        ):
            return False
    return True


def _changed(why: str) -> LedgerDamaged:
    return LedgerDamaged(
        "this ledger bundle was changed or cut short",
        got=why,
        wanted="the file as the site exported and signed it",
        next_step="Ask the site to send it again: fedhealth audit export.",
    )
