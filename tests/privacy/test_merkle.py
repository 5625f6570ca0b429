import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.privacy.merkle import MerkleTree, is_consistent, leaf_hash

# Inputs, roots and proofs of certificate-transparency, cpp/merkletree/merkle_tree_test.cc.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PROOFS = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def tree_of(leaves):
    tree = MerkleTree()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return tree


def root_of(leaves):
    """RFC 9162, section 2.1.1, as it is written."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


TREE = tree_of(bytes([number]) for number in range(41))


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_published_with_certificate_transparency(size):
    assert tree_of(map(bytes.fromhex, INPUTS[:size])).root().hex() == ROOTS[size]
    assert tree_of(map(bytes.fromhex, INPUTS)).root(size).hex() == ROOTS[size]


@pytest.mark.parametrize("sizes", PROOFS)
def test_consistency_proofs_are_those_published_with_certificate_transparency(sizes):
    proof = tree_of(map(bytes.fromhex, INPUTS)).consistency_proof(*sizes)
    assert [node.hex() for node in proof] == PROOFS[sizes]


def test_roots_of_every_size_follow_the_definition():
    leaves = [bytes([number]) for number in range(41)]
    for size in range(42):
        assert TREE.root(size) == root_of(leaves[:size])


def test_a_proof_holds_between_any_two_sizes_and_for_no_other_size_root_or_node():
    other = tree_of(bytes([number, 1]) for number in range(41))
    for second in range(1, 41):
        for first in range(1, second + 1):
            proof = TREE.consistency_proof(first, second)
            one, two = TREE.root(first), TREE.root(second)
            assert is_consistent(first, one, second, two, proof)
            assert not is_consistent(first, other.root(first), second, two, proof)
            assert not is_consistent(first, one, second, other.root(second), proof)
            assert not is_consistent(first, one, second, two, [*proof, bytes(32)])
            assert not is_consistent(second, one, first, two, proof) or first == second
            if first < second:
                assert not is_consistent(first, one, second, two, proof[:-1])
                assert not is_consistent(first, one, first, two, proof)
                assert not is_consistent(second, one, second, two, proof)
                assert not is_consistent(first, one, 1000, two, proof), "a proof that long leaves nodes out"
            for place in range(len(proof)):
                changed = [bytes(32) if number == place else node for number, node in enumerate(proof)]
                assert not is_consistent(first, one, second, two, changed)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 400), st.integers(0, 255))
def test_no_changed_bit_of_a_proof_or_a_root_is_accepted(first, second, place, bit):
    first, second = min(first, second), max(first, second)
    parts = [TREE.root(first), TREE.root(second), *TREE.consistency_proof(first, second)]
    number = place % len(parts)
    changed = bytearray(parts[number])
    changed[bit // 8] ^= 1 << bit % 8
    parts[number] = bytes(changed)
    assert not is_consistent(first, parts[0], second, parts[1], parts[2:])


@pytest.mark.parametrize("first, second", [(-1, 3), (4, 3), (42, 42), (0, 42)])
def test_there_is_no_proof_between_sizes_the_tree_never_had(first, second):
    with pytest.raises(ValueError):
        TREE.consistency_proof(first, second)
    with pytest.raises(ValueError):
        TREE.root(42)


def test_proofs_from_the_empty_tree_need_its_own_root():
    assert is_consistent(0, hashlib.sha256().digest(), 3, TREE.root(3), [])
    assert not is_consistent(0, bytes(32), 3, TREE.root(3), [])
    assert not is_consistent(0, hashlib.sha256().digest(), 3, TREE.root(3), [bytes(32)])
    assert not is_consistent(1, TREE.root(1), 2, TREE.root(2), [b"short"])
