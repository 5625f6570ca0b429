"""Take a patient who is forgotten out of the index at once, by a process of the gate's domain.

Whatever opens the index takes out who withdrew the consent, so this only has it opened. Should it be cut off, the
journal still says who is to go, and whatever opens the index next does it.
"""

import json
import subprocess
import sys

from fedhealth.errors import DataUnusable
from fedhealth.site.search_consent import kept_consent
from fedhealth.site.state import SiteState


def erase_forgotten(state: SiteState) -> int | None:
    """Have documents of patients who withdrew the consent taken out of the index, bytes included.

    Args:
        state: the site's.

    Returns:
        How many documents went; None where there is no index.

    Raises:
        DataUnusable: it could not be done; nothing is found of the patient, and the bytes are still there.
    """
    if kept_consent(state.index) is None:
        return None
    words = ("site", "index", "status", "--state", str(state.root.absolute()), "--json")
    done = subprocess.run(  # noqa: S603 - our own program; -P: not what lies in the folder that root stands in
        [sys.executable, "-P", "-m", "fedhealth.cli.main", *words], capture_output=True, check=False
    )
    if done.returncode != 0:
        raise DataUnusable(
            "the patient is forgotten and not found any more, but still in the files of the index",
            got=_said(done.stderr) or f"exit code {done.returncode} of the process that takes them out",
            next_step="Repeat when that is dealt with: fedhealth site index status --help",
        )
    return int(json.loads(done.stdout)["erased"])


def _said(errors: bytes) -> str:
    """Return what the process said of why it could not, in one line."""
    try:
        error = json.loads(errors.splitlines()[-1])["error"]
        return ": ".join(filter(None, (str(error["what"]), str(error["got"]))))
    except (IndexError, KeyError, TypeError, ValueError):
        return ""
