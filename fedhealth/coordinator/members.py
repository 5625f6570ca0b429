"""The coordinator's record of who joined: each site's ledger key, and the certificates that are good today.

A certificate counts only while its serial number is on this record: TLS says who made it, the record says whether it
still holds. Revoking a site empties its list, so it holds at once, across restarts, and also for certificates that
somebody made with a stolen issuing key.

Invariants: one file per site, replaced whole and durable before anything is told; changes by two processes (a running
coordinator that renews, a command that revokes) follow each other; a missing or damaged file refuses.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.pki.certificates import parse_chain
from fedhealth.pki.leaf import Flaw, LeafRefused
from fedhealth.pki.names import check_name
from fedhealth.pki.profiles import Role
from fedhealth.privacy.release import Digest
from fedhealth.secret_file import SECRET_MODE, locked_folder, replace_file

Seconds = Annotated[int, Field(ge=0, le=2**53 - 1)]


class HeldCertificate(BaseModel):
    """A certificate that is good until it ends.

    Attributes:
        serial: its serial number, hexadecimal.
        role: what it is good for.
        ends: its `notAfter`, in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]
    role: Role
    ends: Seconds

    @classmethod
    def of(cls, chain_pem: bytes, role: Role) -> "HeldCertificate":
        """Return the record of a leaf that was just issued, with its issuer behind it."""
        leaf = parse_chain(chain_pem, 2)[0]
        return cls(serial=f"{leaf.serial_number:x}", role=role, ends=int(leaf.not_valid_after_utc.timestamp()))


class Member(BaseModel):
    """A site that joined.

    Attributes:
        site: its id.
        ledger_key: raw Ed25519 public key of its ledger, hexadecimal; pinned until its own statement leads on.
        certificates: those that are good now; none of a site that was revoked.
        revoked: when it was, in seconds since 1970; None while it is in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    site: str
    ledger_key: Digest
    certificates: Annotated[tuple[HeldCertificate, ...], Field(max_length=64)]
    revoked: Seconds | None = None


class Members:
    """The record of all sites, in a folder.

    Args:
        folder: one file per site; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[tuple[int, int, int], Member]] = {}

    def all(self) -> dict[str, Member]:
        """Return every site that ever joined, by id."""
        found = (self.find(path.stem) for path in sorted(self._folder.glob("*.json")))
        return {member.site: member for member in found if member is not None}

    def find(self, site: str) -> Member | None:
        """Return a site's record as it is on disk now, None if it never joined.

        Raises:
            ConfigInvalid: the file is damaged or cannot be read.
        """
        path = self._path(site)
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)  # every change is another file
            if self._read.get(site, (None,))[0] != stamp:
                self._read[site] = stamp, Member.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise ConfigInvalid(
                f"the record of site '{site}' cannot be used",
                got=f"a file that is damaged or cannot be read: {path}",
                next_step="Restore it from a backup; until then the site is not let in.",
            ) from error
        return self._read[site][1]

    def check(self, site: str, certificate: x509.Certificate, role: Role) -> None:
        """Return if a certificate whose chain and profile hold is on the record; to be asked at every use.

        Raises:
            LeafRefused: the site never joined, was revoked, or this certificate is not on its list.
        """
        member = self.find(site)
        if member is None:
            raise LeafRefused(Flaw.NOT_A_MEMBER, "a site that never joined", "one that did")
        if member.revoked is not None:
            raise LeafRefused(Flaw.REVOKED, "a site that was revoked", "one that was not")
        serial = f"{certificate.serial_number:x}"
        if not any(held.serial == serial and held.role is role for held in member.certificates):
            raise LeafRefused(Flaw.NOT_ON_RECORD, "a certificate that was not issued here, or replaced", "one that was")

    def admit(self, site: str, ledger_key: str, certificates: tuple[HeldCertificate, ...]) -> None:
        """Record a site that joined, or joined again; earlier certificates stop counting.

        Raises:
            IdentityInvalid: it has another ledger than when it first joined.
        """
        with locked_folder(self._folder):
            before = self.find(site)
            if before is not None and before.ledger_key != ledger_key:
                raise IdentityInvalid(
                    f"site '{site}' has another ledger than when it first joined",
                    got=f"ledger key {ledger_key[:16]}...",
                    wanted=f"{before.ledger_key[:16]}...",
                    next_step="Let it join with the ledger it had: what was spent is in it. If its key was rotated:"
                    " fedhealth coordinator follow-key --help",
                )
            self._write(Member(site=site, ledger_key=ledger_key, certificates=certificates))

    def repin(self, site: str, ledger_key: str) -> None:
        """Pin the key that a site's own signed statements lead to; whether they do is the caller's to check."""
        with locked_folder(self._folder):
            member = self.find(site)
            if member is not None:
                self._write(member.model_copy(update={"ledger_key": ledger_key}))

    def add(self, site: str, certificate: HeldCertificate, now: datetime) -> None:
        """Put a renewed certificate on a site's list, and drop those that ended.

        Raises:
            LeafRefused: the site was revoked meanwhile, or never joined.
        """
        with locked_folder(self._folder):
            member = self.find(site)
            if member is None or member.revoked is not None:
                raise LeafRefused(Flaw.REVOKED, "a site that is not in", "one that is")
            good = [held for held in member.certificates if held.ends > now.timestamp()]
            # A site that renews all the time pushes its own oldest out.
            self._write(member.model_copy(update={"certificates": (*good, certificate)[-32:]}))

    def revoke(self, site: str, now: datetime) -> None:
        """Take a site out: none of its certificates counts from here on.

        Raises:
            ConfigInvalid: no such site joined.
        """
        with locked_folder(self._folder):
            member = self.find(site)
            if member is None:
                joined = ", ".join(sorted(path.stem for path in self._folder.glob("*.json")))
                raise ConfigInvalid(
                    f"site '{site}' never joined",
                    wanted=f"one of {joined or 'none yet'}",
                    next_step="Correct the name.",
                )
            if member.revoked is None:
                self._write(member.model_copy(update={"certificates": (), "revoked": int(now.timestamp())}))

    def _path(self, site: str) -> Path:
        return self._folder / f"{check_name(site)}.json"

    def _write(self, member: Member) -> None:
        replace_file(self._path(member.site), member.model_dump_json().encode(), SECRET_MODE)
