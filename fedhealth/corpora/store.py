"""A folder of corpora: what a site publishes, what it fetched from the others, or what the coordinator carries.

    known.json                      whose key is believed, and the newest version ever seen of each corpus
    SITE/CORPUS/manifest.json       the version that is whole
    SITE/CORPUS/next.json           a newer one whose parts are still on their way
    SITE/CORPUS/SHA256.jsonl        a part of either

Every file is written beside its place and moved there, so that a process that is killed leaves the old or the new one;
a part is named by its content, so that whatever came before a kill is not fetched again.

Invariants: nothing is kept that its publisher did not sign, with the key first seen of that site; an older version
than was ever seen is refused, also after the corpus was dropped; a part is of the size and hash that the manifest says;
what one site, and all sites, may take of the disk is bounded, and the disk is never filled up: a ledger may lie on it.

Leaves to others: how manifests and parts come here (`carrying`), and what is published at all (`fedhealth.site`).
"""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.corpora.corpus import MAX_MANIFEST_BYTES, MAX_PART_BYTES, Hash, Manifest, Name, Part, open_manifest
from fedhealth.errors import IdentityInvalid, LinkUnavailable
from fedhealth.secret_file import PUBLIC_MODE, read_plain_file, replace_file

MAX_SITES = 512
MAX_CORPORA = 16
"""Of one site, those that it withdrew among them."""
MAX_SITE_BYTES = 2**29
MAX_STORE_BYTES = 2**33
LEAST_FREE_BYTES = 2**30
FOLDER_MODE = 0o755
"""What is here is public; who may pass to it is for the folder above to say."""
_KNOWN, _WHOLE, _NEXT, _PART = "known.json", "manifest.json", "next.json", ".jsonl"
_MAX_KNOWN_BYTES = 2**21

Address = tuple[str, str]
"""Site and corpus."""


class CorpusRefused(LinkUnavailable):
    """A corpus is not taken in; what was there before stays."""


class _KnownSite(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    key: Hash
    versions: Annotated[dict[Name, int], Field(max_length=MAX_CORPORA)]


class _Known(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    sites: Annotated[dict[Name, _KnownSite], Field(max_length=MAX_SITES)]


@dataclass(frozen=True)
class Held:
    """A corpus in the folder.

    Attributes:
        manifest: as its publisher signed it.
        data: the bytes of that.
        whole: all of its parts are here.
    """

    manifest: Manifest
    data: bytes
    whole: bool

    @property
    def sha256(self) -> str:
        """What names this version."""
        return hashlib.sha256(self.data).hexdigest()


class CorpusStore:
    """The folder; one process changes it, in any of its threads, and any number read.

    Args:
        root: it; made when something is kept.
        follows_keys: another key of a site replaces the former one, because something else proves the site.
    """

    def __init__(self, root: Path, *, follows_keys: bool = False) -> None:
        self.root, self._follows_keys = root, follows_keys
        self._lock = threading.RLock()
        self._opened: dict[Path, tuple[tuple[int, int, int], Held]] = {}

    def held(self) -> dict[Address, Held]:
        """Return the corpora that are whole, those withdrawn among them, in the order of sites and names.

        A file that cannot be read is as if it were not there.
        """
        return {address: found for address in self._addresses() if (found := self._read(address, _WHOLE)) is not None}

    def arriving(self) -> dict[Address, Held]:
        """Return the versions whose parts are still on their way."""
        return {address: found for address in self._addresses() if (found := self._read(address, _NEXT)) is not None}

    def manifest(self, address: Address) -> bytes | None:
        """Return the signed manifest of a corpus that is whole, None if there is none."""
        found = self._read(address, _WHOLE)
        return found.data if found else None

    def part(self, address: Address, sha256: str) -> bytes | None:
        """Return a part that is whole, None if it is not here or damaged."""
        with suppress(OSError):
            data = read_plain_file(self._folder(address) / f"{sha256}{_PART}", MAX_PART_BYTES)
            return data if hashlib.sha256(data).hexdigest() == sha256 else None
        return None

    def keys(self) -> dict[str, str]:
        """Return the public key that is believed of each site."""
        return {site: known.key for site, known in self._known().sites.items()}

    def newest(self, address: Address) -> int:
        """Return the newest version that was ever seen of a corpus; 0 if none was."""
        known = self._known().sites.get(address[0])
        return known.versions.get(address[1], 0) if known else 0

    def accept(self, data: bytes, address: Address) -> Manifest:
        """Take a signed manifest in; where all of its parts are here it is whole at once.

        Args:
            data: its bytes.
            address: which corpus it was asked for as.

        Raises:
            IdentityInvalid: it is none, or its signature does not hold.
            CorpusRefused: of another corpus, by another key than the site's, older than what was seen, beyond a limit.
        """
        manifest = open_manifest(data)
        if (manifest.site, manifest.corpus) != address:
            raise CorpusRefused(
                f"what is shown as corpus '{address[1]}' of site '{address[0]}' is another one",
                got=f"'{manifest.corpus}' of site '{manifest.site}'",
                next_step="Ask the operator of the coordinator.",
            )
        with self._lock:
            self._accept(manifest, data)
        return manifest

    def _accept(self, manifest: Manifest, data: bytes) -> None:
        address, known = (manifest.site, manifest.corpus), self._known()
        site = known.sites.get(manifest.site) or _KnownSite(key=manifest.key, versions={})
        if site.key != manifest.key:
            if not self._follows_keys:
                raise CorpusRefused(
                    f"corpus '{manifest.corpus}' is signed with another key than site '{manifest.site}' had",
                    got=f"{manifest.key[:16]}...",
                    wanted=f"{site.key[:16]}...",
                    next_step="Ask its administrator by phone, then: fedhealth site articles trust --help",
                )
            site = site.model_copy(update={"key": manifest.key})
        seen = site.versions.get(manifest.corpus, 0)
        if manifest.version < seen or self._contradicts(address, manifest.version, data):
            raise CorpusRefused(
                f"corpus '{manifest.corpus}' of site '{manifest.site}' is older than what was here",
                got=f"version {manifest.version}",
                wanted=f"a later one than {seen}",
                next_step="Ask the operator of the coordinator why an old one is shown.",
            )
        self._check_room(manifest, known, site)
        versions = site.versions | {manifest.corpus: manifest.version}
        sites = known.sites | {manifest.site: site.model_copy(update={"versions": versions})}
        self._make_folder(address)
        self._write(self._folder(address) / _NEXT, data)
        self._write(self.root / _KNOWN, canonical_bytes(_Known(sites=sites)))
        self._finish(address)

    def missing(self, address: Address) -> tuple[Part, ...]:
        """Return the parts that the version on its way still lacks."""
        arriving = self._read(address, _NEXT)
        return tuple(part for part in arriving.manifest.parts if not self._has(address, part)) if arriving else ()

    def put(self, address: Address, part: Part, data: bytes) -> None:
        """Keep a part; with the last one the version on its way takes the place of the former.

        Raises:
            CorpusRefused: the bytes are not that part, or the disk is nearly full.
        """
        if len(data) != part.bytes or hashlib.sha256(data).hexdigest() != part.sha256:
            raise CorpusRefused(
                f"a part of corpus '{address[1]}' of site '{address[0]}' is not what its publisher signed",
                next_step="It is fetched again by itself; if that goes on, ask the operator of the coordinator.",
            )
        self._check_disk(part.bytes)
        with self._lock:
            self._write(self._folder(address) / f"{part.sha256}{_PART}", data)
            if not self.missing(address):
                self._finish(address)

    def trust(self, site: str, key: str) -> None:
        """Believe one key of a site from now on, and whatever version it signs next; what another signed is dropped."""
        with self._lock:
            for address, held in {**self.held(), **self.arriving()}.items():
                if address[0] == site and held.manifest.key != key:
                    self.drop(address)
            sites = self._known().sites | {site: _KnownSite(key=key, versions={})}
            self._make_folder(())
            self._write(self.root / _KNOWN, canonical_bytes(_Known(sites=sites)))

    def drop_but(self, addresses: Set[Address], of: Callable[[str], bool]) -> None:
        """Drop all other corpora of some sites; their versions and keys stay known."""
        for address in self._addresses():
            if address not in addresses and of(address[0]):
                self.drop(address)

    def drop(self, address: Address) -> None:
        """Drop a corpus; its version and key stay known."""
        folder = self._folder(address)
        with self._lock:
            for name in (_WHOLE, _NEXT):  # first: without them no part counts
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)

    def _finish(self, address: Address) -> None:
        """Let the version on its way take the former's place if it is whole, and remove parts of neither."""
        folder, arriving = self._folder(address), self._read(address, _NEXT)
        if arriving is not None and not self.missing(address):
            (folder / _NEXT).replace(folder / _WHOLE)
            arriving = None
        whole = self._read(address, _WHOLE)
        wanted = {part.sha256 for held in (whole, arriving) if held for part in held.manifest.parts}
        for path in folder.iterdir():
            if path.name not in (_WHOLE, _NEXT) and path.name.removesuffix(_PART) not in wanted:
                path.unlink()

    def _contradicts(self, address: Address, version: int, data: bytes) -> bool:
        """Say whether other bytes of this very version are here."""
        here = (self._read(address, name) for name in (_WHOLE, _NEXT))
        return any(found.manifest.version == version and found.data != data for found in here if found)

    def _check_room(self, manifest: Manifest, known: _Known, site: _KnownSite) -> None:
        too_many = len(site.versions.keys() | {manifest.corpus}) > MAX_CORPORA
        others = {
            address: held.manifest.bytes
            for address, held in {**self.held(), **self.arriving()}.items()
            if address != (manifest.site, manifest.corpus)
        }
        of_site = sum(size for (name, _), size in others.items() if name == manifest.site)
        if (
            too_many
            or len(known.sites.keys() | {manifest.site}) > MAX_SITES
            or of_site + manifest.bytes > MAX_SITE_BYTES
            or sum(others.values()) + manifest.bytes > MAX_STORE_BYTES
        ):
            raise CorpusRefused(
                f"there is no room for corpus '{manifest.corpus}' of site '{manifest.site}'",
                got=f"{manifest.bytes:,} bytes, beside {of_site:,} of this site and {sum(others.values()):,} of all",
                wanted=f"at most {MAX_CORPORA} names and {MAX_SITE_BYTES:,} bytes a site, {MAX_STORE_BYTES:,} of all",
                next_step="Its publisher makes it smaller, or withdraws another: fedhealth site articles --help",
            )
        self._check_disk(manifest.bytes)

    def _check_disk(self, size: int) -> None:
        place = next(path for path in (self.root, *self.root.parents) if path.exists())
        free = shutil.disk_usage(place).free
        if free - size < LEAST_FREE_BYTES:
            raise CorpusRefused(
                "the disk is too full for more articles",
                got=f"{free:,} bytes free at {place}",
                wanted=f"{size:,}, and {LEAST_FREE_BYTES:,} to spare: what else is on this disk must not fail",
                next_step="Free some; fetching goes on by itself.",
            )

    def _known(self) -> _Known:
        try:
            return _Known.model_validate_json(read_plain_file(self.root / _KNOWN, _MAX_KNOWN_BYTES))
        except FileNotFoundError:
            return _Known(sites={})
        except (OSError, ValidationError) as error:
            raise CorpusRefused(
                f"{self.root / _KNOWN} cannot be read, so nobody can say whose articles are believed",
                next_step=f"Move the folder {self.root} away: all is fetched anew, and keys believed as first seen.",
            ) from error

    def _addresses(self) -> list[Address]:
        """Return what may be a corpus, in order; bounded, because whoever writes here may have been taken over."""
        found = ((site.name, corpus.name) for site in _folders_in(self.root) for corpus in _folders_in(site))
        return list(islice(found, MAX_SITES * MAX_CORPORA))

    def _read(self, address: Address, name: str) -> Held | None:
        path = self._folder(address) / name
        with suppress(OSError, IdentityInvalid):
            status = path.stat(follow_symlinks=False)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)  # every change is another file
            if (opened := self._opened.get(path)) is not None and opened[0] == stamp:
                return opened[1]
            data = read_plain_file(path, MAX_MANIFEST_BYTES)
            manifest = open_manifest(data)
            if (manifest.site, manifest.corpus) == address:
                self._opened[path] = stamp, Held(manifest, data, name == _WHOLE)
                return self._opened[path][1]
        return None

    def _has(self, address: Address, part: Part) -> bool:
        with suppress(OSError):
            return (self._folder(address) / f"{part.sha256}{_PART}").stat().st_size == part.bytes
        return False

    def _folder(self, address: tuple[str, ...]) -> Path:
        return self.root.joinpath(*address)

    def _make_folder(self, address: tuple[str, ...]) -> None:
        for folder in reversed((self._folder(address), *self._folder(address).parents)):
            if folder.is_relative_to(self.root) and not folder.exists():
                folder.mkdir()
                folder.chmod(FOLDER_MODE)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        replace_file(path, data, PUBLIC_MODE)


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder that this user may look into."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return []


def parts_in(store: CorpusStore, held: Held) -> Iterator[bytes]:
    """Yield the parts of a corpus, in order.

    Raises:
        CorpusRefused: one is not here, or damaged.
    """
    address = held.manifest.site, held.manifest.corpus
    for part in held.manifest.parts:
        data = store.part(address, part.sha256)
        if data is None:
            raise CorpusRefused(
                f"a part of corpus '{address[1]}' of site '{address[0]}' is missing or damaged",
                next_step=f"Remove {store.root / address[0] / address[1]}: it is fetched again by itself.",
            )
        yield data
