"""The mark that a site's ledger is behind or of another history, and what the coordinator gave back for it.

Two files in the gate's folder: the mark, with the coordinator's receipt that shows it, and the pages of sealed entries
as they came. A third, empty, says that the ledger came from a backup. While one of these marks stands, no ledger can be
opened here but for showing its head and for the administrator who recovers it. A restart forgets neither.
"""

import os
from pathlib import Path

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import LedgerBehind, LedgerDamaged
from fedhealth.privacy.anchor import forked
from fedhealth.privacy.copies import Copy, page_of, records_of
from fedhealth.privacy.hold_mark import Mark, read_mark
from fedhealth.secret_file import replace_file, sync_folder


class LedgerHold:
    """The hold of one ledger; owns its two files.

    Args:
        folder: the gate's folder.
        name: of the ledger's file, without ending.
    """

    def __init__(self, folder: Path, name: str = "ledger") -> None:
        self._mark, self._pages = folder / f"{name}.hold", folder / f"{name}.given-back"
        self._restored = folder / f"{name}.restored"

    @property
    def restored(self) -> bool:
        """Whether the ledger came from a backup, and nobody has said since that it is the newest."""
        return self._restored.exists()

    def set_restored(self) -> None:
        """Hold a ledger that came from a backup; durable on return."""
        replace_file(self._restored, b"")

    def mark(self) -> Mark | None:
        """Return the mark, if the ledger is held.

        Raises:
            LedgerDamaged: there is one and it cannot be read.
        """
        return read_mark(self._mark)

    def check(self, site: str) -> None:
        """Return if the ledger is not held.

        Raises:
            LedgerBehind, LedgerForked: it is.
        """
        mark = self.mark()
        if mark is not None and mark.kind == "forked":
            raise forked(site)
        if self.restored:
            raise restored(site)
        if mark is not None:
            raise behind(site)

    def set(self, mark: Mark) -> None:
        """Hold the ledger; durable on return. What shows a fork is never replaced."""
        last = self.mark()
        if last is None or last.kind == "behind":
            replace_file(self._mark, canonical_bytes(mark))

    def given_back(self) -> list[Copy]:
        """Return the copies that came back, in a row; a page that a crash cut off counts as far as it goes."""
        found: list[Copy] = []
        if self._pages.exists():
            try:
                for copy in records_of(self._pages.read_bytes()):
                    if found and copy[0] != found[-1][0] + 1:
                        break
                    found.append(copy)
            except LedgerDamaged:
                pass
        return found

    def reaches(self, size: int) -> int:
        """Return how many entries a ledger of `size` would have with what came back."""
        found = self.given_back()
        return max(size, found[-1][0] + 1) if found and found[0][0] <= size else size

    def take(self, size: int, page: list[Copy]) -> None:
        """Keep what of a page continues a ledger of `size` entries and what came back before; durable on return."""
        found = self.given_back()
        if not found or not found[0][0] <= size <= found[-1][0] + 1:
            found = []
        wanted = found[-1][0] + 1 if found else size
        new = [copy for copy in page if copy[0] >= wanted]
        if not new or new[0][0] != wanted:
            return
        kept = sum(len(page_of([copy])) for copy in found)
        descriptor = os.open(self._pages, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.truncate(kept)
            file.seek(kept)
            file.write(b"".join(page_of([copy]) for copy in new))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._pages.parent)

    def clear(self) -> None:
        """Let the ledger go: first what came back, then the marks."""
        for path in (self._pages, self._mark, self._restored):
            path.unlink(missing_ok=True)
        sync_folder(self._mark.parent)


def behind(site: str) -> LedgerBehind:
    """Return the error for a ledger that lacks entries that the coordinator has signed for."""
    return LedgerBehind(
        f"the ledger of '{site}' lacks entries that the coordinator has signed for: it is an older copy",
        next_step="Nothing leaves until an administrator has put them back. Start the gate and let the coordinator "
        "connect: it gives them back; then stop the gate and run: fedhealth site recover-ledger.",
    )


def restored(site: str) -> LedgerBehind:
    """Return the error for a ledger from a backup, of which only the coordinator can say whether it is the newest."""
    return LedgerBehind(
        f"the ledger of '{site}' came from a backup",
        next_step="Nothing leaves yet. Join again (fedhealth site enrol), start gate and node and let the coordinator "
        "connect: it says how far the ledger had come. Then stop the gate and run: fedhealth site recover-ledger.",
    )
