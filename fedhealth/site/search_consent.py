"""Who may not be found: the marks of patients who withdrew their consent, as the index keeps them beside itself.

The journal of the ledger decides. The index has a copy of what it said, so that a process that fills it, and can
no longer read the ledger, sees a withdrawal that comes meanwhile: each batch is added under a lock, by the copy as it
is then. Whoever opens the index compares the two first, takes newly withdrawn patients out, and only then goes on. So a
removal that was cut off is made good by whatever opens the index next, and a patient who is not taken out yet is not
found.

Invariants: the copy holds keyed marks and no names. It is written before anybody is removed, and says so until all are.
A patient's mark is made whether anybody withdrew or not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.journal import ConsentNote
from fedhealth.privacy.release import Digest
from fedhealth.records.marks import PatientMarks
from fedhealth.secret_file import SECRET_MODE, locked_folder, read_plain_file, replace_file
from fedhealth.site.consent import forgotten_patients
from fedhealth.site.state import SiteState

_FOLDER, _FILE = "consent", "kept.json"
_MAX_BYTES = 64 * 2**20


class KeptConsent(BaseModel):
    """What the index keeps of the journal.

    Attributes:
        site: whose index it is.
        data_set: whose patients' marks these are.
        patient_column: of that data set.
        as_of: when the last change of a consent was journalled, Unix time in milliseconds, and later than the change
            before it, whatever the clock said; 0 if there was none.
        forgotten: marks of the patients who withdrew their consent, sorted.
        removed: whether all of them are out of the index.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    site: str
    data_set: str
    patient_column: str
    as_of: int
    forgotten: tuple[Digest, ...]
    removed: bool


@dataclass(frozen=True)
class Consent:
    """What the journal says, and how patients are recognised.

    Attributes:
        site: the site's id.
        data_set: its data set.
        marks: make patients' marks.
        former: make marks as they were made while the data set had another name: who withdrew then is forgotten still.
        as_of: when the last change of a consent was journalled, Unix time in milliseconds, and later than the change
            before it, whatever the clock said; 0 if there was none.
        forgotten: marks of the patients who withdrew their consent.
    """

    site: str
    data_set: str
    marks: PatientMarks
    as_of: int
    forgotten: frozenset[Digest]
    former: tuple[PatientMarks, ...] = ()

    def excludes(self, patient: str | None) -> bool:
        """Say whether a document's patient withdrew the consent; an article is of no patient."""
        marks = {each.of((patient or "").strip()) for each in (self.marks, *self.former)}
        return patient is not None and not marks.isdisjoint(self.forgotten)

    def kept(self, *, removed: bool) -> KeptConsent:
        """Return what the index keeps of it."""
        return KeptConsent(
            site=self.site,
            data_set=self.data_set,
            patient_column=self.marks.patient_column,
            as_of=self.as_of,
            forgotten=tuple(sorted(self.forgotten)),
            removed=removed,
        )

    def updated(self, kept: KeptConsent | None) -> "Consent":
        """Return the newer of this and what the index keeps, which another process may have written since."""
        if kept is None or kept.as_of <= self.as_of:
            return self
        return replace(self, as_of=kept.as_of, forgotten=frozenset(kept.forgotten))


def read_consent(state: SiteState, folder: Path | None = None) -> Consent:
    """Read the journal, before the process gives up the ledger and the site's secrets.

    Args:
        state: the site's.
        folder: the site's folder, with `site.toml`; None to rely on what the index keeps of it.

    Raises:
        ConfigInvalid: there is no index yet, or a withdrawal could not be recognised any more.
        LedgerDamaged: the ledger is held, or cannot be read.
    """
    if folder is not None:
        site = load_site_file(folder)
        name, data_set, column = site.id, site.data_set.name, site.data_set.patient_column
    else:
        kept = kept_consent(state.index)
        if kept is None:
            raise no_index(state)
        name, data_set, column = kept.site, kept.data_set, kept.patient_column
    secret = state.naming_secret()
    with state.copied_ledger(name) as ledger:
        notes = [note for note in ledger.journal() if isinstance(note, ConsentNote)]
        names = dict.fromkeys((data_set, *(note.data_set for note in notes)))
        marks, *former = (PatientMarks.under(secret, each, column) for each in names)
        forgotten = frozenset[Digest]().union(
            *(forgotten_patients(ledger, each, own.scheme) for each, own in zip(names, (marks, *former), strict=True))
        )
        as_of = 0
        for note in notes:  # a clock that was set back must not make a later word the older one
            as_of = max(as_of + 1, note.at)
    return Consent(name, data_set, marks, as_of, forgotten, tuple(former))


def no_index(state: SiteState) -> ConfigInvalid:
    """Return what to say where nothing is indexed yet."""
    return ConfigInvalid(f"there is no index at {state.index}", next_step="Make it: fedhealth site index add --help")


def kept_consent(folder: Path) -> KeptConsent | None:
    """Return what the index in a folder keeps; None if it is new.

    Raises:
        DataUnusable: the file is there and cannot be read.
    """
    try:
        return KeptConsent.model_validate_json(read_plain_file(folder / _FOLDER / _FILE, _MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DataUnusable(
            f"{folder / _FOLDER / _FILE} cannot be read, so nobody can say who must not be found",
            next_step=f"Delete the folder {folder} and index again: fedhealth site index add --help",
        ) from error


def keep_consent(folder: Path, kept: KeptConsent) -> None:
    """Write what the index in a folder keeps; the caller holds the lock."""
    replace_file(folder / _FOLDER / _FILE, canonical_bytes(kept), SECRET_MODE)


@contextmanager
def held_consent(folder: Path) -> Iterator[KeptConsent | None]:
    """Hold the lock under which documents are added and patients taken out, and give what the index keeps.

    Raises:
        DataUnusable: as `kept_consent`.
    """
    with locked_folder(folder / _FOLDER):
        yield kept_consent(folder)


def make_index_folder(state: SiteState) -> Path:
    """Make the folder of a site's index, for the gate's user alone, with the place of temporary files; return it."""
    for each in (state.index, state.index / _FOLDER, state.index / "tmp"):
        each.mkdir(mode=0o700, exist_ok=True)
    return state.index
