"""The studies that a failure after a charge stopped here, until their administrator resumes them.

It stands in the local journal, so that a study stays stopped over a restart and nothing of it crosses the border: the
other side learns `busy`, as for any other reason.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.journal import JournalNote, Note
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest
from fedhealth.site.gate_inputs import Clock

_LOG = logging.getLogger(__name__)


class StoppedStudies:
    """The studies that are stopped, as the journal says."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock
        self._stopped = set(stopped_in(ledger.journal()))

    def __contains__(self, study: Digest | None) -> bool:
        return study in self._stopped

    def resume(self, study: Digest) -> None:
        """Let a study go on; the ledger says so already."""
        self._stopped.discard(study)

    def stop(self, study: Digest, error: Exception) -> None:
        """Stop a study here until its administrator resumes it."""
        self._stopped.add(study)
        # The kind of error alone: its text may hold what a record held.
        _LOG.error(
            "study %(study)s is stopped here, after the charge: %(defect)s",
            {"study": study, "defect": type(error).__name__},
        )
        with suppress(LedgerDamaged):  # then the whole gate answers `busy`
            self._ledger.note(JournalNote(kind="failure", text=study, at=self._clock.unix_ms()))


def stopped_in(journal: Iterable[Note]) -> frozenset[Digest]:
    """Return the studies that a failure stopped here and that no administrator has resumed."""
    stopped: set[Digest] = set()
    for note in journal:
        if note.kind == "failure":
            stopped.add(note.text)
        elif note.kind == "resumed":
            stopped.discard(note.text)
    return frozenset(stopped)
