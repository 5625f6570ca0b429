"""What a site needs to come back after its machine is lost, in one file that only the holder of a recovery key opens.

In it: the ledger, its key, the split, naming and copies secrets, who was in the data, signed studies, pinned keys, the
asking key where there is one (search studies name it, and askers' certificates rest on it), the key of published
articles (others believe it), `site.toml`, `policy.toml`
and, where there is one, `search.toml`. Never the noise secret: whoever had it could take the noise off everything that
ever left. A site that comes back draws a new one, and what was charged and not stored stays spent and is never computed
again. Not in it either: the data, which are the hospital's; the index of its searches, which is made of them again, and
in a backup would keep whoever is forgotten later; and the node's keys, which a new invitation replaces.

The recovery key is made once and kept away from the machine. A backup is a tar file in pieces of 1 MiB under
AES-256-GCM with a key of its own: X25519 of a fresh key pair with the recovery key, then HKDF-SHA-256. The nonces hold
the pieces' numbers and say which is the last, so none can be left out, moved or cut off.

Source: RFC 7748, RFC 5869; the STREAM construction of Hoang, Reyhanitabar, Rogaway, Vizár (2015).

Anybody who knows the public half can make a file that opens; that it is this site's, the ledger's signatures say, whose
key the coordinator has pinned. Whether it is the newest, only the coordinator can tell, so a recovered ledger is held
(`fedhealth.site.hold`) until that has spoken.
"""

import io
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.link.enrolment import LEDGER_CERTIFICATE_FILE
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.ledger_file import copy_ledger
from fedhealth.privacy.verify import read_ledger
from fedhealth.secret_file import PUBLIC_MODE, SECRET_MODE, create_file, read_secret, sync_folder
from fedhealth.site.state import SiteState

_MAGIC = b"fedhealth-backup-1\n"
_PIECE_BYTES = 1 << 20
_TAG_BYTES = 16

_LEDGER = ("ledger.sqlite", "ledger.sqlite-wal")
_FILES = (
    "ledger.key",
    "ledger.key.next",
    LEDGER_CERTIFICATE_FILE,
    "split.secret",
    "naming.secret",
    "copies.secret",
    "members",
)
_BESIDE = ("asking.key", "articles.key")
"""Files beside the gate's folder, where a confined gate cannot read them."""
_FOLDERS = {"studies": ".json"}
_SITE_FILES = ("site.toml", "policy.toml", "search.toml")


@dataclass(frozen=True)
class RecoveredSite:
    """What came back.

    Attributes:
        site: its id.
        entries: of its ledger.
        kept: files of the site's folder, and keys beside the gate's, that were there already and are not as in the
            backup; they were kept.
    """

    site: str
    entries: int
    kept: tuple[str, ...]


def create_recovery_key(path: Path) -> str:
    """Make a recovery key, mode 0600, and return its public half, 64 hexadecimal digits.

    Raises:
        IdentityInvalid: the file exists or cannot be created.
    """
    key = X25519PrivateKey.generate()
    create_file(path, key.private_bytes_raw().hex().encode() + b"\n")
    return key.public_key().public_bytes_raw().hex()


def back_up_site(folder: Path, state: SiteState, recovery_key: str, path: Path) -> int:
    """Write a backup of a site; the gate may be running.

    Args:
        folder: the site's folder.
        state: its state.
        recovery_key: the public half, 64 hexadecimal digits.
        path: a new file.

    Returns:
        How many entries the ledger in it has.

    Raises:
        LedgerDamaged: the ledger does not verify; nothing is written.
        IdentityInvalid: the file exists, or the recovery key is none.
        ConfigInvalid: this user may not read a key that belongs into it; nothing is written.
    """
    try:
        recipient = X25519PublicKey.from_public_bytes(bytes.fromhex(recovery_key))
    except ValueError as error:
        raise IdentityInvalid(
            "the recovery key is not a public key",
            got=f"{len(recovery_key)} characters",
            wanted="64 hexadecimal digits, as `fedhealth site recovery-key` printed them",
            next_step="Give the public half; the private one stays away from this machine.",
        ) from error
    for path_of_key in (state.root / name for name in _BESIDE):
        if path_of_key.is_file() and not os.access(path_of_key, os.R_OK):
            raise ConfigInvalid(
                f"this user may not read {path_of_key}, which belongs into a backup",
                next_step="Make the backup as the user who owns it, or as root.",
            )
    with tempfile.TemporaryDirectory(dir=state.gate) as scratch:
        copy_ledger(state.ledger, Path(scratch) / _LEDGER[0])
        entries = read_ledger(Path(scratch) / _LEDGER[0]).verified.head.size
        create_file(path, b"")
        try:
            with path.open("wb") as file, _Sealing(file, recipient) as sealed:
                with tarfile.open(fileobj=sealed, mode="w|") as archive:
                    for name, source in _parts(folder, state, Path(scratch)):
                        archive.add(source, name, recursive=False)
                sealed.finish()
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return entries


def recover_site(folder: Path, state: SiteState, path: Path, key_file: Path) -> RecoveredSite:
    """Make a lost site's gate state again; held until the coordinator has said how far its ledger had come.

    Args:
        folder: the site's folder; `site.toml` and `policy.toml` are written where they are missing.
        state: where to; its `gate/` must not exist.
        path: the backup.
        key_file: the recovery key.

    Raises:
        ConfigInvalid: there is state already, or the backup is of another site.
        IdentityInvalid: the key does not open it, or it was altered or cut off.
        LedgerDamaged: the ledger in it does not verify.
    """
    if state.gate.exists():
        raise ConfigInvalid(
            f"there is state at {state.gate} already",
            next_step="It is never overwritten: it knows what was spent. Recover into another folder.",
        )
    aside = SiteState(state.root / "recovering")
    if aside.root.exists():
        shutil.rmtree(aside.root)  # a run that was cut off left it
    aside.gate.mkdir(mode=0o700, parents=True)
    for name in _FOLDERS:
        (aside.gate / name).mkdir(mode=0o700)
    files = _unpack(path, _load_key(key_file), aside.gate)
    contents = read_ledger(aside.gate)
    site = contents.account.created.site if contents.account.created else ""
    kept = _put_site_files(folder, files, site) + _put_keys(aside.root, state.root)
    create_file(aside.gate / "noise.secret", secrets.token_bytes(32))
    aside.hold.set_restored()
    sync_folder(aside.gate)
    aside.gate.rename(state.gate)
    aside.root.rmdir()
    sync_folder(state.root)
    return RecoveredSite(site, contents.verified.head.size, kept)


def _parts(folder: Path, state: SiteState, ledger: Path) -> Iterator[tuple[str, Path]]:
    """Yield what belongs into a backup, each by its name there: a closed list, so that nothing else ever does."""
    wanted = [(name, ledger / name) for name in _LEDGER]
    wanted += [(name, state.gate / name) for name in _FILES]
    wanted += [(name, state.root / name) for name in _BESIDE]
    for name, ending in _FOLDERS.items():
        wanted += [(f"{name}/{file.name}", file) for file in sorted((state.gate / name).glob(f"*{ending}"))]
    wanted += [(f"site/{name}", folder / name) for name in _SITE_FILES]
    return ((name, source) for name, source in wanted if source.is_file())


def _unpack(path: Path, key: X25519PrivateKey, gate: Path) -> dict[str, bytes]:
    """Write a backup's files into a new folder and beside it, and return those of the site's folder."""
    site_files: dict[str, bytes] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_Opened(file, key), mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None or not _is_wanted(member.name):
                    raise _not_ours(f"an unknown part {member.name[:40]!r}")
                if member.name.startswith("site/"):
                    site_files[member.name.removeprefix("site/")] = content.read()
                    continue
                place = gate.parent if member.name in _BESIDE else gate
                _write(place / member.name, content, PUBLIC_MODE if "/" in member.name else SECRET_MODE)
    except tarfile.TarError as error:
        raise _not_ours("no archive") from error
    return site_files


def _is_wanted(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    if folder == "site":
        return file in _SITE_FILES
    if folder:
        return folder in _FOLDERS and file.endswith(_FOLDERS[folder]) and file.isprintable() and file[0] != "."
    return file in (*_LEDGER, *_FILES, *_BESIDE)


def _write(path: Path, content: IO[bytes], mode: int) -> None:
    create_file(path, b"", mode)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, _PIECE_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _put_site_files(folder: Path, files: dict[str, bytes], site: str) -> tuple[str, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for name, content in files.items():
        there = folder / name
        if not there.exists():
            create_file(there, content, PUBLIC_MODE)
        elif there.read_bytes() != content:
            kept.append(name)
    if load_site_file(folder).id != site:
        raise ConfigInvalid(
            f"the backup is of site '{site}'",
            got=f"site '{load_site_file(folder).id}' in {folder / 'site.toml'}",
            next_step="Name the folder of the site that was lost, or an empty one.",
        )
    return tuple(kept)


def _put_keys(unpacked: Path, root: Path) -> tuple[str, ...]:
    """Move keys to where they belong; one that is there already stays, and is named where it is another one."""
    kept = []
    for name in _BESIDE:
        came, there = unpacked / name, root / name
        if not came.exists():
            continue
        if not there.exists():
            came.rename(there)
            continue
        if there.read_bytes() != came.read_bytes():
            kept.append(name)
        came.unlink()
    return tuple(kept)


def _load_key(path: Path) -> X25519PrivateKey:
    try:
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(read_secret(path).decode("ascii").strip()))
    except ValueError as error:
        raise IdentityInvalid(
            f"{path} is not a recovery key", next_step="Give the file that `fedhealth site recovery-key` made."
        ) from error


def _cipher(shared: bytes, fresh: bytes, recipient: bytes) -> AESGCM:
    derive = HKDF(hashes.SHA256(), 32, salt=fresh + recipient, info=b"fedhealth/backup/1")
    return AESGCM(derive.derive(shared))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _not_ours(got: str) -> IdentityInvalid:
    return IdentityInvalid(
        "the backup cannot be opened",
        got=got,
        wanted="a whole backup, and the recovery key that it was made for",
        next_step="Nothing was changed. Try an older backup; find out who could write to this one.",
    )


class _Sealing(io.RawIOBase):
    """A file that is encrypted while it is written; `finish` writes the last piece."""

    def __init__(self, file: IO[bytes], recipient: X25519PublicKey) -> None:
        fresh = X25519PrivateKey.generate()
        public = fresh.public_key().public_bytes_raw()
        self._cipher = _cipher(fresh.exchange(recipient), public, recipient.public_bytes_raw())
        self._file, self._waiting, self._number = file, bytearray(), 0
        file.write(_MAGIC + public)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: object, /) -> int:
        """Take some bytes."""
        part = bytes(data)  # type: ignore[call-overload]
        self._waiting += part
        while len(self._waiting) > _PIECE_BYTES:
            self._put(bytes(self._waiting[:_PIECE_BYTES]), last=False)
            del self._waiting[:_PIECE_BYTES]
        return len(part)

    def finish(self) -> None:
        """Write the last piece."""
        self._put(bytes(self._waiting), last=True)

    def _put(self, piece: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last), piece, _MAGIC))
        self._number += 1


class _Opened(io.RawIOBase):
    """A backup that is opened while it is read.

    Raises:
        IdentityInvalid: it was made for another key, altered or cut off.
    """

    def __init__(self, file: IO[bytes], key: X25519PrivateKey) -> None:
        head = file.read(len(_MAGIC) + 32)
        if not head.startswith(_MAGIC) or len(head) != len(_MAGIC) + 32:
            raise _not_ours("no backup of this version")
        public = head[len(_MAGIC) :]
        try:
            shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise _not_ours("a damaged beginning") from error
        self._cipher = _cipher(shared, public, key.public_key().public_bytes_raw())
        self._file, self._next, self._number = file, file.read(_PIECE_BYTES + _TAG_BYTES), 0
        self._ready = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, of pieces that were whole."""
        while (size < 0 or len(self._ready) < size) and self._next:
            piece, self._next = self._next, self._file.read(_PIECE_BYTES + _TAG_BYTES)
            try:
                self._ready += self._cipher.decrypt(_nonce(self._number, not self._next), piece, _MAGIC)
            except InvalidTag as error:
                raise _not_ours("another recovery key, or an altered or shortened file") from error
            self._number += 1
        part = self._ready if size < 0 else self._ready[:size]
        self._ready = self._ready[len(part) :]
        return part
