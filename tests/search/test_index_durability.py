"""What has been said to be kept is on disk, and what was deleted is in no page: seen in what is asked of the kernel."""

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tantivy", reason="the extra `search` is not installed")

from made_up_index import HashEncoder, ancestors, letter, read
from test_index_erasure import files_with

from fedhealth.errors import DataUnusable
from fedhealth.search import generations, vectors
from fedhealth.search.documents import Code, DocumentFilter
from fedhealth.search.index import SearchIndex
from fedhealth.search.lexical import Clause
from fedhealth.search.rebuilding import rebuild_index
from fedhealth.search.store import Store

LETTERS = [letter(f"k{n}", f"Toux numéro {n}.", patient=("p-nord", "p-sud")[n % 2]) for n in range(6)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def synced(monkeypatch):
    """The files that were waited for, by their names at that time."""
    paths, fsync = set(), os.fsync

    def noted(descriptor):
        paths.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are Linux's")
def test_a_generation_is_on_disk_before_it_is_the_one_that_counts(folder, synced, monkeypatch):
    unsynced, replace = [], generations.replace_file

    def switching(path, data, mode):
        following = folder / data.decode().strip()
        unsynced.extend(each for each in (following, *following.rglob("*")) if str(each) not in synced)
        replace(path, data, mode)

    monkeypatch.setattr(generations, "replace_file", switching)
    with SearchIndex.open(folder, create=True) as index:
        index.add(LETTERS, read)
        index.fill_vectors(HashEncoder())
        index.remove_patient("p-nord")
        assert unsynced == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are Linux's")
def test_a_file_of_vectors_is_on_disk_before_the_store_names_it(folder, synced, monkeypatch):
    unsynced, transaction = [], Store.transaction

    def watched(store):
        unsynced.extend(each for each in folder.rglob("*.usearch") if str(each) not in synced)
        return transaction(store)

    monkeypatch.setattr(Store, "transaction", watched)
    with SearchIndex.open(folder, create=True) as index:
        index.add(LETTERS, read)
        index.fill_vectors(HashEncoder())
        assert index.status().without_vector == 0
    assert (unsynced, len(vectors.part_versions(Store(next(folder.glob("generation-*/index.sqlite")))))) == ([], 1)


def test_a_commit_waits_for_the_disk_and_a_deleted_document_is_overwritten_at_once(folder):
    planted = "Zyxomène " * 200  # longer than what a page keeps beside others
    with SearchIndex.open(folder, create=True) as index:
        assert index._files.store._database.pragma("synchronous") == 2  # FULL
        index.add([*LETTERS, letter("planted", f"{planted}.", patient="p-ouest")], read)
        index.add([letter(f"later {n}", "Toux sèche.") for n in range(5)], read)
    assert "index.sqlite" in files_with(folder, "Zyxomène Zyxomène")
    with SearchIndex.open(folder) as index:
        index.remove("letters", ["planted"])
    assert "index.sqlite" not in files_with(folder, "Zyxomène Zyxomène")  # the last to close it empties the journal


def test_a_vector_that_was_taken_out_of_its_graph_before_goes_with_the_patient(folder):
    with SearchIndex.open(folder, create=True) as index:
        index.add(LETTERS, read)
        index.fill_vectors(HashEncoder())
        own = index.matching([Clause("numéro 1", match="phrase")])
        blob = index.vectors_of([own[0].passage])[1].astype(np.float16).tobytes()
        index.remove("letters", ["k1", "k3", "k5"])  # all that the patient had
        index.fill_vectors(HashEncoder())  # which takes it out of the graph, and leaves its bytes in the file
        assert any(name.endswith(".usearch") for name in files_with(folder, blob))
        index.remove_patient("p-sud")
        assert files_with(folder, blob) == set()


def test_a_database_of_something_else_is_no_index_whatever_its_version(folder):
    with SearchIndex.open(folder, create=True) as index:
        index.add(LETTERS, read)
    database = sqlite3.connect(next(folder.glob("generation-*/index.sqlite")))
    database.execute("PRAGMA application_id = 5")
    database.close()
    with pytest.raises(DataUnusable, match="a file of something else"):
        SearchIndex.open(folder)


def test_what_a_text_denies_is_no_code_of_the_document(folder):
    only = DocumentFilter(codes=frozenset({Code("icd10", "I21.9")}))
    with SearchIndex.open(folder, create=True) as index:
        index.add([letter("has", "Un infarctus."), letter("has not", "Toux, pas d'infarctus.")], read, ancestors)
        index.fill_vectors(HashEncoder())
        by_meaning = index.passages([each.passage for each in index.nearest(HashEncoder().query("x"), only)])
        assert [each.document.key for each in by_meaning] == ["has"]
        everywhere = Clause("infarctus", standings={"affirmed": 1.0, "negated": 1.0})
        by_words = index.passages([each.passage for each in index.matching([everywhere], only)])
        assert [each.document.key for each in by_words] == ["has"]


def test_the_number_of_a_passage_is_never_used_again_by_a_rebuild_either(folder):
    with SearchIndex.open(folder, create=True) as index:
        index.add(LETTERS, read)
        before = {each.passage for each in index.matching([Clause("toux")])}
    rebuild_index(folder, read)
    with SearchIndex.open(folder) as index:
        after = {each.passage for each in index.matching([Clause("toux")])}
    assert len(before) == len(after) == 6
    assert min(after) > max(before)
