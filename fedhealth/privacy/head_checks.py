"""What the entries of a ledger must agree with: its signed head, the coordinator's receipt, the witness policy.

The same checks hold for a ledger's file (`verify`) and for a bundle that was exported from it, which is why they take
the entries' account and tree and no file. Every disagreement names the first entry that is wrong. What the entries say
by themselves is left to the account.
"""

from collections.abc import Mapping

from fedhealth.errors import IdentityInvalid, LedgerDamaged
from fedhealth.privacy.checkpoint import Checkpoint, SignedReceipt, open_checkpoint, open_receipt
from fedhealth.privacy.entries import Account, Created
from fedhealth.privacy.hold_mark import Mark
from fedhealth.privacy.merkle import MerkleTree
from fedhealth.signing import load_public_key


def check_head(note: str, account: Account, tree: MerkleTree, seen: str | None) -> Checkpoint:
    """Return the signed head of a ledger if the entries add up to it and extend the head that was seen, if any.

    Raises:
        LedgerDamaged: they do not.
        IdentityInvalid: a head is not signed by the ledger's key.
    """
    head = _open_head(note, account)
    if head.size != tree.size:
        raise altered(min(head.size, tree.size), f"{tree.size} entries stand under a signed head of {head.size}")
    if head.root != tree.root().hex():
        raise altered(0, "the entries do not add up to the signed head")
    if seen is not None:
        check_seen(seen, account, tree)
    return head


def check_seen(note: str, account: Account, tree: MerkleTree) -> Checkpoint:
    """Return the head of a note that somebody else kept, if the entries extend it.

    Raises:
        LedgerDamaged: they are older, or another history.
        IdentityInvalid: the note is not signed by the ledger's key of that time.
    """
    seen = _open_head(note, account)
    if seen.size > tree.size:
        raise altered(tree.size, f"it is missing: a head of {seen.size} entries was seen, this ledger is older")
    if tree.root(seen.size).hex() != seen.root:
        raise altered(0, f"the first {seen.size} entries are not those under the head that was seen")
    return seen


def _open_head(note: str, account: Account) -> Checkpoint:
    """Return a signed head if the key in force at its size signed it."""
    assert account.created is not None  # noqa: S101 - checked by the caller
    claimed = note.partition("\n")[2].partition("\n")[0]  # it becomes true with the signature
    size = int(claimed) if claimed.isascii() and claimed.isdigit() and len(claimed) <= 16 else 0
    return open_checkpoint(note, account.created.site, load_public_key(account.acts.key_at(max(1, size))))


def check_receipt(body: bytes | None, created: Created, tree: MerkleTree) -> int:
    """Return the size of the head that the coordinator's last receipt countersigns, 0 without a receipt.

    Raises:
        LedgerDamaged: it is unreadable, not signed by the coordinator's pinned key, or for another history.
    """
    if body is None:
        return 0
    try:
        signed = SignedReceipt.model_validate_json(body)
        receipt = open_receipt(signed, load_public_key(created.witness_key))
    except (ValueError, IdentityInvalid) as error:
        raise altered(tree.size, "the coordinator's receipt cannot be read or is not signed by its key") from error
    if receipt.site != created.site or receipt.size > tree.size or tree.root(receipt.size).hex() != receipt.root:
        raise altered(min(receipt.size, tree.size), "the coordinator's receipt is for another history")
    return receipt.size


def check_mark(mark: Mark, created: Created, tree: MerkleTree) -> None:
    """Return if a ledger has the head that a mark beside it shows; then it was put right, and only the mark is left.

    Raises:
        LedgerDamaged: the coordinator has signed for entries that the ledger lacks, or for others.
    """
    try:
        receipt = open_receipt(mark.receipt, load_public_key(created.witness_key))
    except IdentityInvalid as error:
        raise altered(tree.size, "the mark ledger.hold beside it is not signed by its coordinator") from error
    if receipt.site != created.site:
        raise altered(tree.size, "the mark ledger.hold beside it is of another site")
    if receipt.size > tree.size:
        raise altered(
            tree.size,
            f"it is missing: the coordinator has signed for {receipt.size} entries (ledger.hold), this ledger is older",
        )
    if tree.root(receipt.size).hex() != receipt.root:
        raise altered(0, f"the first {receipt.size} entries are not those the coordinator signed for (ledger.hold)")


def check_witness(account: Account, charged: Mapping[str, int], witnessed: int) -> None:
    """Return if each charge under which something could leave was countersigned, or did not have to be.

    Args:
        account: of the ledger.
        charged: the position of each release's charge.
        witnessed: as `check_receipt` returned.

    Raises:
        LedgerDamaged: a payload was stored without the signature that the policy required.
    """
    for release in account.stored:
        if charged[release] >= witnessed and release not in account.unwitnessed:
            raise altered(charged[release], f"release {release[:12]} left without the witness that the policy required")


def altered(position: int, why: str) -> LedgerDamaged:
    """Return the error that names the first bad entry of a ledger, by its position from 0."""
    return LedgerDamaged(
        f"the ledger was changed: first bad entry is number {position}",
        got=why,
        wanted="entries, journal and rows that add up to the signed head",
        next_step="Keep this file as evidence. Do not put an older copy in its place: it would forget what was spent.",
    )
