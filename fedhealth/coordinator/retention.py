"""Remove what a protocol says is kept no longer: files of a run and its rows; that it was done, and when, stays."""

import logging
from pathlib import Path

from fedhealth.coordinator.round_checkpoint import CHECKPOINT_FILE
from fedhealth.coordinator.run_folder import PUBLISHED, SEAL
from fedhealth.coordinator.store.runs import Runs
from fedhealth.coordinator.store.studies import Studies
from fedhealth.coordinator.store.tables import StudyState

_LOG = logging.getLogger(__name__)
_DAY_MS = 24 * 3600 * 1000


def remove_expired(studies: Studies, runs: Runs, now: int) -> list[str]:
    """Remove the results of studies that have been over for longer than their protocols say.

    Files first, then the rows: killed in between, it is done again.

    Args:
        studies: the coordinator's.
        runs: and their runs.
        now: milliseconds of Unix time.

    Returns:
        The digests of the studies whose results were removed now.
    """
    removed = []
    for known in studies.all((StudyState.DONE, StudyState.STOPPED)):
        run = runs.find(known.digest)
        if run is None or known.removed_at is not None:
            continue
        ended = run.finished_at or studies.events(known.digest)[-1].at
        if now < ended + known.retention_days * _DAY_MS:
            continue
        folder = Path(run.folder)
        try:
            for name in (*PUBLISHED, SEAL, CHECKPOINT_FILE):
                (folder / name).unlink(missing_ok=True)
                (folder / f"{name}.new").unlink(missing_ok=True)  # what a kill left of a write
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        except OSError as error:  # this folder alone; it is tried again
            _LOG.error("results cannot be removed: %(error)s", {"error": error})
            continue
        runs.remove(known.digest, now)
        removed.append(known.digest)
    return removed
