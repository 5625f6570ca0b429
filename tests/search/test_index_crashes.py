"""A process killed before and after each of its writes leaves an index that goes on where it stopped.

Each case is a process of its own that ends itself with SIGKILL before its n-th write, until one comes through. Nothing
reaches the disk between two writes, so "before the next" is "after this one"; the last one has a case of its own.
"""

import multiprocessing
import os
import shutil
import signal

import pytest
from made_up_index import HashEncoder, letter, read
from test_index_erasure import files_with

from fedhealth.errors import DataUnusable
from fedhealth.search import generations, vectors
from fedhealth.search.documents import DocumentFilter
from fedhealth.search.index import Added, SearchIndex
from fedhealth.search.lexical import Clause, Lexical
from fedhealth.search.rebuilding import rebuild_index
from fedhealth.search.store import Store

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["fedhealth.search.rebuilding", "made_up_index"])

LETTERS = [
    letter(f"k{n}", f"Toux numéro {n}. Fièvre numéro {n}.", patient=("patient-nord", "patient-sud")[n % 2])
    for n in range(6)
]
LATER = [
    letter("k0", "Scanner normal. Biopsie normale.", patient="patient-nord"),
    letter("k9", "Toux neuve.", patient="patient-sud"),
]


class KillAt:
    """Counts the writes that a process is about to make, and kills it at one of them."""

    def __init__(self, number):
        self.left = number

    def passed(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function):
        def watched(*arguments, **named):
            self.passed()
            return function(*arguments, **named)

        return watched

    def around_commit(self, transaction):
        """A transaction counts when it is about to be committed."""
        kill_at = self

        class Watched:
            def __init__(self, store):
                self.inner = transaction(store)

            def __enter__(self):
                return self.inner.__enter__()

            def __exit__(self, *error):
                kill_at.passed()
                self.inner.__exit__(*error)

        def watched(store):
            return Watched(store)

        return watched

    def watch(self):
        Store.transaction = self.around_commit(Store.transaction)
        Store.copy_to = self.around(Store.copy_to)
        Lexical.put = self.around(Lexical.put)
        vectors._save = self.around(vectors._save)
        generations.replace_file = self.around(generations.replace_file)
        generations.shutil.rmtree = self.around(generations.shutil.rmtree)


def work(act, folder, number):
    kill_at = KillAt(number)
    kill_at.watch()
    if act == "create":
        SearchIndex.open(folder, create=True).close()
    elif act == "rebuild":
        rebuild_index(folder, read)
    else:
        with SearchIndex.open(folder) as index:
            if act == "add":
                index.add(LATER, read)
            elif act == "fill":
                index.fill_vectors(HashEncoder())
            else:
                index.remove_patient("patient-sud")
    kill_at.passed()  # after the last


def prepare(act, folder):
    """Make what the act begins with, once: the cases work on copies."""
    folder.mkdir()
    if act != "create":
        with SearchIndex.open(folder, create=True) as index:
            index.add(LETTERS, read)
            if act != "fill":
                index.fill_vectors(HashEncoder())


def found_by_words(index):
    """Return the keys found, having seen that each document is whole."""
    found = index.passages([each.passage for each in index.matching([Clause("toux fièvre scanner biopsie")], limit=99)])
    keys = {each.passage.document for each in found}
    for key in keys:
        document = index.document("letters", key)
        assert [
            each.passage.text for each in sorted(found, key=lambda one: one.id) if each.passage.document == key
        ] == [passage.text for passage in read(document).passages]
    return keys


def found_by_meaning(index):
    found = index.passages([each.passage for each in index.nearest(HashEncoder().query("x"), limit=99)])
    return {each.passage.document for each in found}


@pytest.mark.processes
@pytest.mark.parametrize("act", ["create", "add", "fill", "erase", "rebuild"])
def test_goes_on_where_a_killed_process_stopped(tmp_path, act):
    former = {each.key for each in LETTERS}
    prepare(act, tmp_path / "prepared")
    for kill_at in range(1, 99):
        folder = tmp_path / str(kill_at)
        shutil.copytree(tmp_path / "prepared", folder)
        process = PROCESSES.Process(target=work, args=(act, folder, kill_at))
        process.start()
        process.join()
        if act == "create":
            with SearchIndex.open(folder, create=True) as index:
                assert index.add(LETTERS, read) == Added(6, 0, 0)
                assert found_by_words(index) == former
        else:
            with SearchIndex.open(folder) as index:
                LOOK[act](index, folder, former)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert process.exitcode == 0
    assert kill_at > 2  # so at least one was cut off before, and one after, a write


def look_after_add(index, folder, former):
    assert found_by_words(index) in (former, former - {"k0"}, former | {"k9"})  # the new ones not yet, or both
    index.resume()
    assert found_by_words(index) in (former, former | {"k9"})
    added = index.add(LATER, read)
    assert added in (Added(1, 1, 0), Added(0, 0, 2))
    assert found_by_words(index) == former | {"k9"}
    index.fill_vectors(HashEncoder())
    assert found_by_meaning(index) == former | {"k9"}
    assert index.matching([Clause("toux numéro 0", match="phrase")]) == []


def look_after_fill(index, folder, former):
    assert found_by_words(index) == former
    assert len(index.nearest(HashEncoder().query("x"), limit=99)) in (0, 12)
    index.fill_vectors(HashEncoder())
    assert found_by_meaning(index) == former
    assert index.status().without_vector == 0


def look_after_erase(index, folder, former):
    left = former - {"k1", "k3", "k5"}
    begun = found_by_words(index) == left
    assert begun or found_by_words(index) == former
    unfinished = index.status().erasure_unfinished
    assert index.resume() == unfinished
    assert not index.status().erasure_unfinished
    assert index.remove_patient("patient-sud").documents == (0 if begun else 3)
    assert not index.status().erasure_unfinished
    assert (found_by_words(index), found_by_meaning(index)) == (left, left)
    assert files_with(folder, "patient-sud", "numéro 1", "numéro 3", "numéro 5") == set()
    assert len(list(folder.glob("generation-*"))) == 1
    assert not list(folder.glob("removed-*"))


def look_after_rebuild(index, folder, former):
    assert (found_by_words(index), found_by_meaning(index)) == (former, former)
    assert rebuild_index(folder, read) == 6
    assert (found_by_words(index), found_by_meaning(index)) == (former, former)
    assert len(list(folder.glob("generation-*"))) == 1


LOOK = {"add": look_after_add, "fill": look_after_fill, "erase": look_after_erase, "rebuild": look_after_rebuild}


def add_many(folder, name):
    with SearchIndex.open(folder, create=True) as index:
        for n in range(5):
            index.add([letter(f"{name}-{n}", f"Toux {name}. Fièvre {name}.")], read)


@pytest.mark.processes
def test_two_processes_add_at_the_same_time_and_nothing_is_lost(tmp_path):
    folder = tmp_path / "index"
    both = [PROCESSES.Process(target=add_many, args=(folder, name)) for name in ("un", "deux")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    with SearchIndex.open(folder) as index:
        assert found_by_words(index) == {f"{name}-{n}" for name in ("un", "deux") for n in range(5)}
        assert index.status().waiting_for_words == 0


def test_a_second_process_does_not_fill_and_a_held_lock_is_waited_for_and_then_named(tmp_path, monkeypatch):
    monkeypatch.setattr(generations, "LOCK_WAIT_SECONDS", 0.0)
    folder = tmp_path / "index"
    with SearchIndex.open(folder, create=True) as index:
        index.add(LETTERS, read)
        with generations.held_lock(folder, "fill.lock"), pytest.raises(DataUnusable, match="being written"):
            index.fill_vectors(HashEncoder())
        with generations.held_lock(folder), pytest.raises(DataUnusable, match="lock held by another process"):
            index.add(LATER, read)
        assert found_by_words(index) == {each.key for each in LETTERS}
        assert len(index.matching([Clause("toux")], DocumentFilter(patient="patient-sud"))) == 3
