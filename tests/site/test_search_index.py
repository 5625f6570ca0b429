"""A site's index brought up to date, and who withdrew the consent kept out of it, whatever happens in between."""

import dataclasses
import fcntl
import shutil

import pytest

pytest.importorskip("tantivy", reason="the extra `search` is not installed")

from fedhealth.errors import ConfigInvalid
from fedhealth.search.documents import DocumentFilter
from fedhealth.search.index import SearchIndex
from fedhealth.search.index_files import ERASING, IndexFiles
from fedhealth.search.readers.problem import Problem
from fedhealth.site import search_index
from fedhealth.site.consent import forget_patient, renew_consent
from fedhealth.site.landlock import Sandbox
from fedhealth.site.search_accesses import read_accesses
from fedhealth.site.search_consent import held_consent, keep_consent, kept_consent, make_index_folder, read_consent
from fedhealth.site.search_domain import SearchDomain
from fedhealth.site.search_index import Filling, SourceCount, open_index, rebuild
from fedhealth.site.search_patients import StrangersOfSource, find_strangers
from fedhealth.site.searching import Searching

SOURCES = """
[[sources]]
name = "letters"
reader = "text"
path = "letters"
names = "{patient}/{date} {title}.txt"
language = "en"
"""


class Indexed:
    """A ward with letters, and its index."""

    def __init__(self, here, terms):
        self.folder, self.state = here.folder, here.state
        self.index = make_index_folder(here.state)
        for path in terms.iterdir():
            shutil.copy(path, self.index)
        (self.folder / "search.toml").write_text(SOURCES)

    def write(self, patient, text, day="2024-05-31", title="Letter"):
        path = self.folder / "letters" / patient / f"{day} {title}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def consent(self):
        return read_consent(self.state, self.folder)

    def fill(self, consent=None, told=lambda count: None):
        """Bring the index up to date; return the last counts of each source."""
        counts = {}

        def noted(count):
            counts[count.source] = dataclasses.replace(count)
            told(count)

        index, _ = open_index(self.index, consent or self.consent(), create=True)
        with index:
            Filling(self.index, index, consent or self.consent(), noted).bring_up_to_date(self.folder)
        return counts

    def patients(self):
        with SearchIndex.open(self.index) as index:
            return set(index.patients())

    def files_with(self, text):
        return [path for path in self.index.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.fixture
def ward_with_letters(ward, compiled_terms):
    here = Indexed(ward(), compiled_terms)
    here.write("p1", "Chest pain. No troponin.")
    here.write("p2", "Acute appendicitis with zyxwvut as a word of its own.")
    return here


def test_what_is_new_other_or_gone_changes_and_the_rest_stays(ward_with_letters):
    here = ward_with_letters
    first = here.fill()["letters"]
    assert (first.read, first.added, first.unchanged) == (2, 2, 0)
    here.write("p1", "Chest pain and fever.")
    here.write("p3", "Gout.")
    shutil.rmtree(here.folder / "letters" / "p2")
    second = here.fill()["letters"]
    assert (second.added, second.replaced, second.unchanged, second.removed) == (1, 1, 0, 1)
    third = here.fill()["letters"]
    assert (third.added, third.replaced, third.unchanged, third.removed) == (0, 0, 2, 0)


def test_a_source_that_cannot_be_read_keeps_what_it_has_and_one_that_is_named_no_more_goes(ward_with_letters):
    here = ward_with_letters
    here.fill()
    (here.folder / "letters").rename(here.folder / "elsewhere")
    count = here.fill()["letters"]
    assert [problem.level for problem in count.problems] == ["source"]
    assert here.patients() == {"p1", "p2"}
    (here.folder / "search.toml").write_text(
        SOURCES.replace('"letters"', '"notes"').replace('path = "notes"', 'path = "elsewhere"')
    )
    counts = here.fill()
    assert (counts["notes"].added, counts["letters"].removed) == (2, 2)


def test_patients_whom_the_data_set_names_otherwise_are_counted_source_by_source(ward_with_letters):
    here = ward_with_letters  # whose data set has p0, p1, p2 ...
    (here.folder / "notes.csv").write_text("who;said\nP1;Gout.\np-2;Gout.\np1;Gout.\nq7;Gout.\n")
    notes = '[[sources]]\nname = "notes"\nreader = "table"\npath = "notes.csv"\npatient_column = "who"\n'
    (here.folder / "search.toml").write_text(SOURCES + notes + 'text_columns = ["said"]\n')
    here.fill()
    with SearchIndex.open(here.index) as index:
        assert find_strangers(index, here.folder) == (StrangersOfSource("notes", 4, 3, 2),)
        (here.folder / "patients.csv").unlink()
        assert find_strangers(index, here.folder) is None


def test_of_very_many_problems_the_first_are_named_and_the_rest_counted(monkeypatch):
    monkeypatch.setattr(search_index, "_MOST_NAMED", 3)
    count = SourceCount("letters")
    for number in range(5):
        count.note(Problem("letters", f"line {number}", "no JSON"))
        count.note(Problem("letters", f"line {number}", "read as Windows-1252", "noted"))
    count.note(Problem("letters", "", "the disk went away", "source"))
    assert [problem.level for problem in count.problems] == ["left out", "noted"] * 3 + ["source"]
    assert count.unnamed == 4


def test_an_empty_folder_is_a_disk_that_is_not_there_and_takes_nothing_out(ward_with_letters):
    here = ward_with_letters
    here.fill()
    shutil.rmtree(here.folder / "letters")
    (here.folder / "letters").mkdir()
    (problem,) = here.fill()["letters"].problems
    assert (problem.level, "keeps the 2 that it had" in problem.what) == ("source", True)
    assert here.patients() == {"p1", "p2"}


def test_a_patient_who_is_forgotten_is_in_no_byte_of_the_index_and_never_indexed_again(ward_with_letters):
    here = ward_with_letters
    here.fill()
    assert here.files_with("zyxwvut")
    forget_patient(here.folder, here.state, "p2")
    index, removed = open_index(here.index, here.consent())
    index.close()
    assert (removed, here.files_with("zyxwvut"), here.patients()) == (1, [], {"p1"})
    here.write("p2", "Another letter of zyxwvut.", day="2024-06-01")
    count = here.fill()["letters"]
    assert (count.withheld, count.added, here.files_with("zyxwvut")) == (2, 0, [])
    renew_consent(here.folder, here.state, "p2")
    assert here.fill()["letters"].added == 2
    assert here.patients() == {"p1", "p2"}


def test_a_patient_whose_letters_went_from_their_source_leaves_no_byte_either(ward_with_letters):
    here = ward_with_letters
    here.fill()
    shutil.rmtree(here.folder / "letters" / "p2")
    here.fill()
    assert here.patients() == {"p1", "p2"}  # words of p2 may be in files still, and who is forgotten is looked up here
    forget_patient(here.folder, here.state, "p2")
    open_index(here.index, here.consent())[0].close()
    assert (here.files_with("zyxwvut"), here.patients()) == ([], {"p1"})


class PowerCutError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("when", ["before the marks", "after the marks", "before", "after", "before the last word"])
def test_an_erasure_that_was_cut_off_is_made_good_by_whatever_opens_the_index_next(
    ward_with_letters, monkeypatch, when
):
    here = ward_with_letters
    here.fill()
    forget_patient(here.folder, here.state, "p2")
    remove, keep = SearchIndex.remove_patients, keep_consent

    def removing(self, patients):
        if when == "after":
            remove(self, patients)
        raise PowerCutError

    def keeping(folder, kept):
        at_last = when == "before the last word" and kept.removed
        if when == "after the marks" or (when == "before the last word" and not kept.removed):
            keep(folder, kept)
        if at_last or when in ("before the marks", "after the marks"):
            raise PowerCutError

    if when in ("before", "after"):
        monkeypatch.setattr(SearchIndex, "remove_patients", removing)
    else:
        monkeypatch.setattr("fedhealth.site.search_index.keep_consent", keeping)
    with pytest.raises(PowerCutError):
        open_index(here.index, here.consent())
    monkeypatch.undo()
    open_index(here.index, here.consent())[0].close()
    assert (here.files_with("zyxwvut"), here.patients()) == ([], {"p1"})
    assert kept_consent(here.index).removed is True


def test_an_erasure_that_was_cut_off_between_the_store_and_the_other_files_is_ended_at_the_next_opening(
    ward_with_letters, monkeypatch
):
    here = ward_with_letters
    here.fill()
    forget_patient(here.folder, here.state, "p2")

    def cut_off(files):
        if files.store.fact(ERASING) is not None:
            raise PowerCutError

    monkeypatch.setattr(IndexFiles, "finish_erasure", cut_off)
    with pytest.raises(PowerCutError):
        open_index(here.index, here.consent())
    monkeypatch.undo()
    with SearchIndex.open(here.index) as index:
        assert (index.status().erasure_unfinished, index.patients()) == (
            True,
            {"p1"},
        )  # of p2 nobody could tell any more
    open_index(here.index, here.consent())[0].close()
    with SearchIndex.open(here.index) as index:
        assert index.status().erasure_unfinished is False
    assert here.files_with("zyxwvut") == []


def test_a_batch_is_added_under_the_lock_for_which_a_removal_waits(ward_with_letters, monkeypatch):
    here, held, add = ward_with_letters, [], SearchIndex.add

    def adding(self, *arguments):
        with (here.index / "consent" / "lock").open("ab") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(True)
        return add(self, *arguments)

    monkeypatch.setattr(SearchIndex, "add", adding)
    here.fill()
    assert held == [True]


def test_a_withdrawal_in_the_midst_of_filling_keeps_the_rest_of_the_patients_documents_out(ward_with_letters):
    here = ward_with_letters
    for number in range(70):  # more than a batch, and p2's letters on both sides of its end
        here.write("p2", f"Letter {number} of zyxwvut.", day="2024-06-01", title=str(number))
    consent, told = here.consent(), []

    def withdraw(count):
        if not told:
            told.append(count.added)
            forget_patient(here.folder, here.state, "p2")
            open_index(here.index, here.consent())[0].close()  # as `site forget` has it done by another process

    count = here.fill(consent, withdraw)["letters"]
    assert told == [64]
    assert count.withheld == 8
    assert (here.files_with("zyxwvut"), here.patients()) == ([], {"p1"})


def test_a_data_set_of_another_name_brings_nobody_back(ward_with_letters):
    here = ward_with_letters
    here.fill()
    forget_patient(here.folder, here.state, "p2")
    site = here.folder / "site.toml"
    site.write_text(site.read_text().replace('name = "ward"', 'name = "ward-2"'))
    here.fill()
    assert (here.files_with("zyxwvut"), here.patients()) == ([], {"p1"})
    assert patients_of(searching(here), "appendicitis") == set()
    site.write_text(site.read_text().replace('patient_column = "id"', 'patient_column = "other"'))
    with pytest.raises(ConfigInvalid, match="cannot be recognised"):
        here.fill()


def test_a_clock_that_was_set_back_lets_no_forgotten_patient_in(ward_with_letters, monkeypatch):
    here = ward_with_letters
    forget_patient(here.folder, here.state, "p9")
    consent = here.consent()  # as a process has it that fills the index since
    monkeypatch.setattr("fedhealth.site.consent.time.time_ns", lambda: 10**15)  # 1970
    here.fill()
    forget_patient(here.folder, here.state, "p2")
    open_index(here.index, here.consent())[0].close()
    assert here.patients() == {"p1"}
    index = SearchIndex.open(here.index)
    with index:
        Filling(here.index, index, consent, lambda count: None).bring_up_to_date(here.folder)
    assert (here.files_with("zyxwvut"), here.patients()) == ([], {"p1"})
    renew_consent(here.folder, here.state, "p2")
    here.fill()
    assert here.patients() == {"p1", "p2"}


def test_filling_that_was_stopped_is_begun_again_and_goes_on(ward_with_letters):
    here = ward_with_letters
    for number in range(100):
        here.write("p3", f"Letter {number}.", title=str(number))

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.fill(told=stop)
    count = here.fill()["letters"]
    assert (count.unchanged, count.added) == (64, 38)


def searching(here):
    consent = here.consent()
    index, _ = open_index(here.index, consent)
    return Searching(SearchDomain(here.index, consent, Sandbox(0), "alice"), index)


def patients_of(searching, query):
    found = searching.search(query, DocumentFilter(), include_negated=False, limit=10)
    return {hit.document.patient for hit in found.hits}


def test_who_withdrew_the_consent_is_not_found_from_the_moment_that_it_is_known(ward_with_letters):
    here = ward_with_letters
    here.fill()
    session = searching(here)  # goes on, as a clinician's at a terminal does
    assert patients_of(session, "appendicitis") == {"p2"}
    forget_patient(here.folder, here.state, "p2")
    keep_consent(here.index, here.consent().kept(removed=False))  # the first thing that is done, before any removal
    assert patients_of(session, "appendicitis") == set()


def test_a_whole_document_is_shown_once_it_was_written_down_and_not_of_who_withdrew_the_consent(ward_with_letters):
    here = ward_with_letters
    here.fill()
    session = searching(here)
    (letter,) = session.search("appendicitis", DocumentFilter(), include_negated=False, limit=10).hits
    place = letter.document.source, letter.document.key

    before = len(list(read_accesses(here.index)))
    assert session.document(*place).patient == "p2"
    assert [(each.by, len(each.patients)) for each in read_accesses(here.index)][before:] == [("alice", 1)]
    assert session.document("letters", "none") is None
    forget_patient(here.folder, here.state, "p2")
    keep_consent(here.index, here.consent().kept(removed=False))
    assert session.document(*place) is None
    assert len(list(read_accesses(here.index))) == before + 1


def test_a_search_waits_for_no_batch_of_what_fills_the_index(ward_with_letters):
    here = ward_with_letters
    here.fill()
    with held_consent(here.index):  # else this would wait for itself
        assert patients_of(searching(here), "appendicitis") == {"p2"}


def test_a_rebuilt_index_answers_as_before_and_an_index_of_another_version_is_rebuilt(ward_with_letters):
    here = ward_with_letters
    here.fill()
    before = patients_of(searching(here), "appendicitis")
    assert rebuild(here.index, lambda done: None, keep_vectors=True) == 2
    assert patients_of(searching(here), "appendicitis") == before == {"p2"}
