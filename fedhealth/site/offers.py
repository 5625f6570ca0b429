"""Studies that wait for this site: the node keeps what the coordinator offers, the administrator reads it.

The node writes files named by the SHA-256 of their bytes into its own folder and looks at nothing in them. Who reads
them believes nothing but a researcher's signature; whether a study is approved is the gate's business and the
ledger's.
"""

import asyncio
import hashlib
import logging
from pathlib import Path

from fedhealth.errors import IdentityInvalid, LinkUnavailable
from fedhealth.link.catalogue import CATALOGUE, MAX_CATALOGUE_BYTES, studies_in
from fedhealth.link.client import SiteLink
from fedhealth.secret_file import read_plain_file, replace_file
from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES, AnySigned, open_signed

_LOG = logging.getLogger(__name__)
_ASK_SECONDS = 30.0
ASK_AGAIN_SECONDS = 5.0
"""How soon an administrator sees a study that was submitted while the site is connected."""


class OfferedStudies:
    """The node's copy of the coordinator's catalogue, fetched again and again while the site is connected.

    Args:
        link: asks the coordinator.
        node: the node's folder.
    """

    def __init__(self, link: SiteLink, node: Path) -> None:
        self._link, self._folder = link, folder_of(node)
        self._fetching: asyncio.Task[None] | None = None

    def connected(self) -> None:
        """Fetch the catalogue, now and until stopped; what an earlier connection began is left."""
        self.stop()
        self._fetching = asyncio.create_task(self._keep_fetching())

    def stop(self) -> None:
        """Stop fetching."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _keep_fetching(self) -> None:
        while True:
            await self._fetch()
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _fetch(self) -> None:
        try:
            catalogue = await self._link.ask(CATALOGUE, b"", _ASK_SECONDS, MAX_CATALOGUE_BYTES)
            keep_offers(self._folder, studies_in(catalogue))
        except (LinkUnavailable, OSError) as error:
            _LOG.warning("which studies wait is not known: %(error)s", {"error": error})


def folder_of(node: Path) -> Path:
    """Return where a node keeps the offers."""
    return node / "offers"


def keep_offers(folder: Path, signed_studies: tuple[bytes, ...]) -> None:
    """Make the folder hold exactly these studies.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(mode=0o750, exist_ok=True)
    wanted = {f"{hashlib.sha256(study).hexdigest()}.json": study for study in signed_studies}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, study in wanted.items():
        if not (folder / name).exists():
            replace_file(folder / name, study)


def read_offers(node: Path) -> dict[Path, AnySigned]:
    """Return the offered studies whose signature holds, by file.

    Args:
        node: the node's folder; nothing in it is trusted.
    """
    offers: dict[Path, AnySigned] = {}
    folder = folder_of(node)
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            offers[path] = open_signed(read_plain_file(path, MAX_SIGNED_STUDY_BYTES))
        except (IdentityInvalid, OSError) as error:
            _LOG.warning("an offered study is left out: %(error)s", {"error": error})
    return offers
