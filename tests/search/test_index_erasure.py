"""After an erasure nothing of the patient is in any file: not as bytes, not as a word, not as a vector."""

import threading

import numpy as np
import pytest
import tantivy
from made_up_index import HashEncoder, ancestors, letter, read

from fedhealth.search.documents import DocumentFilter
from fedhealth.search.index import Removed, SearchIndex
from fedhealth.search.lexical import Clause

PLANTED = "Zyxomène"  # no word of any language: stemmed, folded or not, it begins with "zyxom"
OTHERS = "toux fièvre douleur fracture œdème dyspnée prothèse greffe scanner biopsie"


def made_up_letters(patients, seed=5):
    """Letters of several patients in one another's company, from shorter than a page of the database to longer."""
    draw = np.random.default_rng(seed)
    for number in range(120):
        patient = patients[number % len(patients)]
        words = " ".join(draw.choice(OTHERS.split(), draw.choice((10, 60, 900))))
        text = f"Le patient {patient} a {PLANTED}{patient}numéro{number} et {words}. Suite de {PLANTED}{patient}."
        yield letter(f"key-{number}", text, patient=patient, title=f"Lettre {PLANTED}{patient}")


def files_with(folder, *needles):
    """Return the files in which one of the needles stands, as UTF-8 or UTF-16, in any case."""
    wanted = set()
    for needle in needles:
        if isinstance(needle, bytes):
            wanted.add(needle)
            continue
        for text in {needle, needle.lower(), needle.upper(), needle.replace("è", "e").lower()}:
            wanted |= {text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be")}
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path.name for path, content in contents.items() if any(each in content for each in wanted)}


def words_beginning_with(folder, prefix):
    """Return what the lexical index's dictionaries hold, also of passages that are only marked as deleted."""
    lexical = tantivy.Index.open(str(next(folder.glob("generation-*/lexical"))))
    lexical.reload()
    places = [("exact", ""), *(("stemmed", f"{language}|") for language in ("fr", "en", "other"))]
    found = [
        lexical.searcher().terms_with_prefix(f"{standing}_{field}", before + prefix)
        for standing in ("affirmed", "negated", "title")
        for field, before in places
    ]
    return sorted({word for words in found for word, _ in words})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


def test_erases_one_patient_from_every_file_and_nothing_of_the_others(folder):
    patients = ["p-quinze", "p-seize", "p-dix-sept"]
    with SearchIndex.open(folder, create=True) as index:
        index.add(made_up_letters(patients), read, ancestors)
        index.fill_vectors(HashEncoder())
        # one letter was replaced, and one was another patient's first: their former words are the patient's too
        index.add([letter("key-0", f"Plus rien ici, {PLANTED}p-quinze.", patient="p-quinze")], read)
        index.add([letter("key-3", "Erreur de saisie ailleurs.", patient="p-seize")], read)
        own = index.matching([Clause("patient")], DocumentFilter(patient="p-quinze"))
        blobs = [row.astype(np.float16).tobytes() for row in index.vectors_of([own[0].passage])[1]]
        kept = len(index.matching([Clause(f"{PLANTED}p-seize", match="phrase")]))

        found = files_with(folder, f"{PLANTED}p-quinze", *blobs)
        assert any(name.startswith("index.sqlite") for name in found)
        assert any(name.endswith(".usearch") for name in found)
        assert words_beginning_with(folder, "zyxomenep") != []

        # 40 letters of two passages each: one is one sentence now, one is another's now
        assert index.remove_patient("p-quinze") == Removed(39, 77)
        assert files_with(folder, f"{PLANTED}p-quinze", "p-quinze", *blobs) == set()
        assert index.nearest(HashEncoder().query("x"), DocumentFilter(patient="p-quinze")) == []
        assert len(index.matching([Clause(f"{PLANTED}p-seize", match="phrase")])) == kept
        assert index.status().without_vector == 1  # "Erreur de saisie ailleurs.", never filled
    assert not list(folder.glob("removed-*")) and len(list(folder.glob("generation-*"))) == 1


def test_the_dictionaries_are_those_of_an_index_that_never_knew_the_patient(folder, tmp_path):
    letters = list(made_up_letters(["p-1", "p-2"]))
    with SearchIndex.open(folder, create=True) as index:
        index.add(letters, read)
        index.remove("letters", [each.key for each in letters if each.patient == "p-1"])
        assert words_beginning_with(folder, "zyxomenep") != []  # a deletion alone leaves words behind
        assert index.remove_patient("p-1") == Removed(0, 0)  # ... and an erasure comes for them all the same
    with SearchIndex.open(tmp_path / "other", create=True) as other:
        other.add([each for each in letters if each.patient == "p-2"], read)
    assert words_beginning_with(folder, "") == words_beginning_with(tmp_path / "other", "")
    assert files_with(folder, f"{PLANTED}p-1") == set()


def test_erasing_whom_the_index_never_knew_writes_nothing(folder):
    with SearchIndex.open(folder, create=True) as index:
        index.add(made_up_letters(["p-1"]), read)
        before = sorted(folder.iterdir())
        assert index.remove_patients(["p-2", "p-3"]) == Removed(0, 0)
    assert sorted(folder.iterdir()) == before


def test_several_patients_are_erased_in_one_go_by_one_process_and_gone_for_another(folder):
    with SearchIndex.open(folder, create=True) as index, SearchIndex.open(folder) as reader:
        index.add(made_up_letters(["p-1", "p-2", "p-3"]), read)
        assert len(reader.matching([Clause("patient")], limit=999)) == 120
        assert index.remove_patients(["p-1", "p-3"]) == Removed(80, 160)
        found = reader.passages([each.passage for each in reader.matching([Clause("patient")], limit=999)])
        assert {each.document.patient for each in found} == {"p-2"}


def test_a_reader_sees_a_document_whole_or_not_at_all_while_another_thread_replaces_it(folder):
    versions = [f"Toux sèche version {n}. Fièvre version {n}. Douleur version {n}." for n in range(6)]
    wrong, done = [], threading.Event()

    def look():
        with SearchIndex.open(folder) as reader:
            while not done.is_set():
                found = reader.passages([each.passage for each in reader.matching([Clause("version")])])
                seen = {each.passage.text.split("version ")[1].strip(". ") for each in found}
                if len(found) not in (0, 3) or len(seen) > 1:
                    wrong.append(sorted(each.passage.text for each in found))

    with SearchIndex.open(folder, create=True) as index:
        index.add([letter("a", versions[0])], read)
        reader = threading.Thread(target=look)
        reader.start()
        for text in versions:
            index.add([letter("a", text)], read)
        index.remove_patient("p-1")
        done.set()
        reader.join()
    assert wrong == []
