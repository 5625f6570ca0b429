"""An append-only Merkle tree with consistency proofs.

Source: RFC 9162, sections 2.1.1 (tree hash), 2.1.4.1 and 2.1.4.2 (consistency proofs and their verification).

Invariant: `levels[k][i]` is the hash of the complete subtree over leaves `i * 2**k` to `(i + 1) * 2**k - 1`, so
appending costs O(1) amortised and roots and proofs O(log n) hashes. Whether leaves are genuine is for the
signed checkpoint to say.
"""

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf (RFC 9162, 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """The tree over the leaves appended so far; owns its hashes."""

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Append a leaf hash of 32 bytes."""
        self._levels[0].append(leaf)
        level = 0
        while len(self._levels[level]) % 2 == 0:
            if level + 1 == len(self._levels):
                self._levels.append([])
            left, right = self._levels[level][-2:]
            self._levels[level + 1].append(_node_hash(left, right))
            level += 1

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first `size` leaves (all by default); the empty tree is SHA-256 of nothing."""
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves, asked for the root of {size}")
        return self._hash(0, size) if size else hashlib.sha256().digest()

    def consistency_proof(self, first: int, second: int | None = None) -> list[bytes]:
        """Return the proof that the first `first` leaves are a prefix of the first `second` leaves.

        Args:
            first: 0 to `second`; a proof from 0 or to itself is empty.
            second: size of the later tree, all leaves by default.
        """
        second = self.size if second is None else second
        if not 0 <= first <= second <= self.size:
            raise ValueError(f"no proof from {first} to {second}: the tree has {self.size} leaves")
        return [] if first in (0, second) else self._subproof(first, 0, second, True)

    def _hash(self, start: int, end: int) -> bytes:
        width = end - start
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._levels[level][start >> level]
        split = start + _largest_power_below(width)
        return _node_hash(self._hash(start, split), self._hash(split, end))

    def _subproof(self, first: int, start: int, end: int, complete: bool) -> list[bytes]:
        if first == end:
            return [] if complete else [self._hash(start, end)]
        split = start + _largest_power_below(end - start)
        if first <= split:
            return [*self._subproof(first, start, split, complete), self._hash(split, end)]
        return [*self._subproof(first, split, end, False), self._hash(start, split)]


def is_consistent(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether `proof` shows that the tree of size `first` is a prefix of the tree of size `second`.

    Source: RFC 9162, section 2.1.4.2; a proof from the empty tree is empty and shows nothing but the sizes.
    """
    if not 0 <= first <= second or any(len(node) != HASH_BYTES for node in proof):
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == hashlib.sha256().digest()
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    low, high = first - 1, second - 1
    while low & 1:
        low, high = low >> 1, high >> 1
    one = two = path[0]
    for node in path[1:]:
        if high == 0:
            return False
        if low & 1 or low == high:
            one, two = _node_hash(node, one), _node_hash(node, two)
            while not low & 1 and low:
                low, high = low >> 1, high >> 1
        else:
            two = _node_hash(two, node)
        low, high = low >> 1, high >> 1
    return one == first_root and two == second_root and high == 0


def _largest_power_below(width: int) -> int:
    return 1 << ((width - 1).bit_length() - 1)
