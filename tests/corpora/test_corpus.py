"""Manifests and parts: what one is, and that nothing else is taken for one."""

import hashlib
import json

import pytest
from corpora_of_sites import KEYS, articles, signed
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.corpora.corpus import (
    MAX_MANIFEST_BYTES,
    MAX_PART_BYTES,
    Article,
    Manifest,
    articles_in,
    line_of,
    open_manifest,
    part_named,
    parts_of,
    sign_manifest,
)
from fedhealth.errors import DataUnusable, IdentityInvalid

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
ARTICLES = st.builds(
    Article,
    key=TEXTS,
    title=st.text(st.characters(codec="utf-8"), max_size=40),
    text=TEXTS,
    date=st.none() | st.dates(),
    language=st.sampled_from([None, "fr", "en"]),
)


@given(some=st.lists(ARTICLES, max_size=6))
def test_articles_come_out_of_their_parts_as_they_went_in(some):
    parts = list(parts_of(map(line_of, some)))
    assert [each for part in parts for each in articles_in(part)] == some
    assert b"".join(parts) == b"".join(map(line_of, some))


@given(data=st.binary(max_size=80) | st.lists(ARTICLES, max_size=2).map(lambda some: b"".join(map(line_of, some))))
@example(b'{"key":"a","text":"b"}\n')  # no longer in its one form
@example(b'{"date":null,"key":"a","language":null,"text":"\\ud800","title":""}\n')
@example(b"[" * 70_000 + b"\n")
def test_bytes_are_a_part_exactly_if_its_articles_make_those_bytes(data):
    try:
        some = list(articles_in(data))
    except DataUnusable:
        return
    assert b"".join(map(line_of, some)) == data


def test_no_part_is_longer_than_it_may_be_and_each_article_is_in_one():
    # 1,000 articles of 3,000 letters: about 3 MB, so that at least three parts are needed.
    some = articles(1000, "x" * 3000)
    parts = list(parts_of(map(line_of, some)))
    assert max(map(len, parts)) <= MAX_PART_BYTES
    assert len(parts) >= 3
    assert [each for part in parts for each in articles_in(part)] == some


def test_one_more_article_changes_few_parts():
    # Parts end by the articles near their ends, not by counting from the first: else all behind it would differ.
    some = articles(3000, "x" * 1500)
    former = {part_named(part).sha256 for part in parts_of(map(line_of, some))}
    later = {part_named(part).sha256 for part in parts_of(map(line_of, [Article(key="0", text="new"), *some]))}
    assert len(former) >= 6
    assert len(later - former) <= 3


def test_a_part_of_the_most_articles_and_one_that_is_too_long():
    with pytest.raises(DataUnusable, match="too long"):
        line_of(Article(key="a", text="é" * 200_000))  # 400,000 bytes


@given(data=st.binary(max_size=200))
def test_what_nobody_signed_is_no_manifest(data):
    with pytest.raises(IdentityInvalid):
        open_manifest(data)


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_manifest_of_which_one_bit_is_changed_is_refused(place, bit):
    data = bytearray(signed()[0])
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(IdentityInvalid):
        open_manifest(bytes(data))


def test_a_manifest_is_what_was_signed():
    data, parts, _ = signed()
    manifest = open_manifest(data)
    assert (manifest.site, manifest.articles, manifest.withdrawn) == ("hungary", 3, False)
    assert manifest.parts[0].sha256 == hashlib.sha256(parts[0]).hexdigest()
    assert open_manifest(signed(some=[], version=2)[0]).withdrawn
    assert open_manifest(signed(version=2**53 - 1)[0]).published.year == 9999
    with pytest.raises(IdentityInvalid):
        open_manifest(data + b" ")
    with pytest.raises(IdentityInvalid):
        open_manifest(json.dumps(json.loads(data)).encode())  # the same, in another form
    with pytest.raises(IdentityInvalid):
        open_manifest(data + b" " * MAX_MANIFEST_BYTES)


def test_a_signature_by_another_key_than_the_one_named_is_refused():
    manifest = open_manifest(signed()[0])
    with pytest.raises(ValueError, match="the key that it names"):
        sign_manifest(manifest, Ed25519PrivateKey.generate())
    data = json.loads(signed()[0])
    data["manifest"]["key"] = KEYS["mallory"].public_key().public_bytes_raw().hex()
    with pytest.raises(IdentityInvalid, match="does not hold"):
        open_manifest(canonical_bytes(data))


@pytest.mark.parametrize(
    "fields",
    [
        {"licence": ""},
        {"licence": "two\nlines"},
        {"articles": 0},
        {"articles": 200_001},
        {"site": "../etc"},
        {"site": ""},
        {"corpus": "a/b"},
        {"corpus": "A"},
        {"version": 0},
        {"version": 2**53},
        {"format": 2},
        {"parts": []},
        {"parts": [{"sha256": "a" * 64, "bytes": 0}]},
        {"parts": [{"sha256": "a" * 64, "bytes": MAX_PART_BYTES + 1}]},
        {"parts": [{"sha256": "a" * 64, "bytes": 5}] * 2},
        {"parts": [{"sha256": f"{number:064x}", "bytes": MAX_PART_BYTES} for number in range(257)]},
        {"note": "more"},
    ],
    ids=lambda fields: f"{next(iter(fields))} {str(next(iter(fields.values())))[:20]}",
)
def test_a_manifest_that_is_not_well_formed_is_none(fields):
    whole = json.loads(canonical_bytes(open_manifest(signed()[0])))
    with pytest.raises(ValidationError):
        Manifest.model_validate(whole | fields)
