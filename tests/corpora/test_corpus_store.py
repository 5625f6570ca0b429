"""The folder of corpora: what is kept and refused, and that no kill leaves half of anything."""

import os

import pytest
from corpora_of_sites import KEYS, articles, signed, taken_in

from fedhealth.corpora import store as store_module
from fedhealth.corpora.corpus import part_named
from fedhealth.corpora.store import CorpusRefused, CorpusStore, parts_in
from fedhealth.errors import IdentityInvalid
from fedhealth.signing import public_key_hex


@pytest.fixture
def store(tmp_path):
    return CorpusStore(tmp_path / "corpora")


def names(store):
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def versions(store):
    return {address: held.manifest.version for address, held in store.held().items()}


def test_a_corpus_counts_when_its_last_part_is_there(store):
    data, parts, address = signed(some=articles(600, "x" * 3000))
    store.accept(data, address)
    missing = store.missing(address)
    assert [part_named(each) for each in parts] == list(missing)
    for part, each in zip(missing, parts, strict=True):
        assert store.held() == {}
        store.put(address, part, each)
    assert versions(store) == {address: 1}
    assert list(parts_in(store, store.held()[address])) == parts
    assert (store.arriving(), store.missing(address)) == ({}, ())


def test_a_newer_version_takes_the_place_of_the_former_when_it_is_whole(store):
    address = taken_in(store, signed(version=1))
    data, parts, _ = signed(version=2, some=articles(4))
    store.accept(data, address)
    assert versions(store) == {address: 1}
    assert len(list(parts_in(store, store.held()[address]))) == 1
    store.put(address, store.missing(address)[0], parts[0])
    assert versions(store) == {address: 2}
    assert len(names(store)) == 3  # what is known, the manifest, and its one part


def test_what_was_withdrawn_has_no_parts_any_more(store):
    address = taken_in(store, signed(version=1))
    store.accept(*signed(version=2, some=[])[::2])
    assert store.held()[address].manifest.withdrawn
    assert names(store) == ["hungary/open/manifest.json", "known.json"]


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: signed(version=4), id="an older version"),
        pytest.param(lambda: signed(version=5, some=articles(9)), id="another one of the same version"),
        pytest.param(lambda: signed(version=6, key=KEYS["mallory"]), id="another key"),
        pytest.param(lambda: (signed(site="va", version=6)[0], [], ("hungary", "open")), id="another site's"),
        pytest.param(lambda: (signed(corpus="b", version=6)[0], [], ("hungary", "open")), id="another corpus"),
    ],
)
def test_what_is_refused_changes_nothing(store, made):
    address = taken_in(store, signed(version=5))
    before = {name: (store.root / name).read_bytes() for name in names(store)}
    data, _, asked_for = made()
    with pytest.raises((CorpusRefused, IdentityInvalid)):
        store.accept(data, asked_for)
    assert {name: (store.root / name).read_bytes() for name in names(store)} == before
    assert versions(store) == {address: 5}


def test_an_older_version_is_refused_also_after_the_corpus_was_dropped(store):
    address = taken_in(store, signed(version=5))
    store.drop_but(set(), lambda site: site == "va")
    assert versions(store) == {address: 5}
    store.drop_but(set(), lambda site: site == "hungary")
    assert (store.held(), names(store)) == ({}, ["known.json"])
    with pytest.raises(CorpusRefused, match="older"):
        store.accept(*signed(version=4)[::2])
    taken_in(store, signed(version=5))  # the very same may come back
    assert versions(store) == {address: 5}


def test_another_key_is_believed_when_a_person_says_so(store):
    taken_in(store, signed(version=5))
    other = KEYS["mallory"]
    taken_in(store, signed(site="va"))
    store.trust("hungary", public_key_hex(other.public_key()))
    assert versions(store) == {("va", "open"): 1}  # what the former key signed is believed no more
    store.drop(("va", "open"))
    address = taken_in(store, signed(version=1, key=other))
    assert versions(store) == {address: 1}
    follows = CorpusStore(store.root, follows_keys=True)
    taken_in(follows, signed(version=2))
    assert follows.keys()["hungary"] == public_key_hex(KEYS["hungary"].public_key())


def test_a_part_that_is_not_the_one_signed_is_refused(store):
    data, parts, address = signed()
    store.accept(data, address)
    (part,) = store.missing(address)
    for wrong in (parts[0][:-1], parts[0] + b"x", parts[0].replace(b"T", b"X"), b""):
        with pytest.raises(CorpusRefused, match="not what its publisher signed"):
            store.put(address, part, wrong)
    assert store.missing(address) == (part,)


def test_a_damaged_part_is_found_when_it_is_read(store):
    address = taken_in(store, signed())
    (path,) = (store.root / "hungary" / "open").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"T", b"X"))
    with pytest.raises(CorpusRefused, match="missing or damaged"):
        list(parts_in(store, store.held()[address]))
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert store.part(address, path.name.removesuffix(".jsonl")) is None


def test_what_a_site_and_all_sites_may_take_is_bounded(store, monkeypatch):
    size = len(signed()[1][0])
    monkeypatch.setattr(store_module, "MAX_SITE_BYTES", 2 * size)
    monkeypatch.setattr(store_module, "MAX_STORE_BYTES", 3 * size)
    for corpus in ("a", "b"):
        taken_in(store, signed(corpus=corpus))
    with pytest.raises(CorpusRefused, match="no room"):
        store.accept(*signed(corpus="c")[::2])
    taken_in(store, signed(site="va"))
    with pytest.raises(CorpusRefused, match="no room"):
        store.accept(*signed(site="mallory")[::2])
    taken_in(store, signed(corpus="a", version=2, some=articles(3, "A lext.")))  # in the place of the former
    store.accept(*signed(corpus="b", version=2, some=[])[::2])  # withdrawn: there is room again
    taken_in(store, signed(site="mallory"))


def test_a_site_may_have_so_many_names_and_no_more(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_CORPORA", 2)
    for corpus in ("a", "b"):
        store.accept(*signed(corpus=corpus, some=[])[::2])
    with pytest.raises(CorpusRefused, match="no room"):
        store.accept(*signed(corpus="c", some=[])[::2])
    store.accept(*signed(corpus="a", some=[], version=2)[::2])


def test_a_disk_that_is_nearly_full_takes_no_more(store, monkeypatch):
    data, parts, address = signed()
    monkeypatch.setattr(store_module, "LEAST_FREE_BYTES", 2**70)
    with pytest.raises(CorpusRefused, match="too full"):
        store.accept(data, address)
    assert not store.root.exists()
    monkeypatch.undo()
    store.accept(data, address)
    monkeypatch.setattr(store_module, "LEAST_FREE_BYTES", 2**70)
    with pytest.raises(CorpusRefused, match="too full"):
        store.put(address, part_named(parts[0]), parts[0])
    assert store.missing(address)


class Killed(BaseException):
    """What a process sees that is killed: nothing of ours catches it."""


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it"])
@pytest.mark.parametrize("number", range(14))
def test_killed_at_any_write_it_goes_on_to_the_same_end(tmp_path, monkeypatch, number, after):
    def work(store):
        taken_in(store, signed(version=1))
        taken_in(store, signed(version=2, some=articles(5)))

    counted = []

    def kill_at(real):
        def change(*arguments, **options):
            counted.append(arguments)
            due = len(counted) - 1 == number
            if due and not after:
                raise Killed
            done = real(*arguments, **options)
            if due:
                raise Killed
            return done

        return change

    whole = CorpusStore(tmp_path / "whole")
    work(whole)
    store = CorpusStore(tmp_path / "killed")
    with monkeypatch.context() as patched:
        for place, name in ((store_module, "replace_file"), (os, "replace"), (os, "rename")):
            patched.setattr(place, name, kill_at(getattr(place, name)))
        with pytest.raises(Killed):
            work(store)
    again = CorpusStore(store.root)
    for held in again.held().values():  # whatever counts is whole
        assert list(parts_in(again, held))
    taken_in(again, signed(version=2, some=articles(5)))  # what is listed by then
    assert versions(again) == versions(whole)
    assert names(again) == names(whole)


def test_a_folder_of_strange_files_holds_no_corpus(store):
    (store.root / "hungary" / "open").mkdir(parents=True)
    (store.root / "hungary" / "open" / "manifest.json").write_bytes(b"{")
    (store.root / "va" / "open").mkdir(parents=True)
    (store.root / "va" / "open" / "manifest.json").write_bytes(signed()[0])  # hungary's, at va's place
    assert store.held() == {}
    (store.root / "known.json").write_bytes(b"{")
    with pytest.raises(CorpusRefused, match="whose articles are believed"):
        store.accept(*signed()[::2])
