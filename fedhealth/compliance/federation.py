"""The ledgers of one site or of many, as an officer has them: gates' folders, ledger files, exported bundles.

Each is verified before anything is said of it. One that is missing, damaged or there in two histories is kept apart
and named, with the reason, and never counted; so whoever adds up must say what the sum lacks. Torch-free.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhealth.compliance.bundle import Manifest, is_bundle, read_bundle
from fedhealth.compliance.history import History, read_gate
from fedhealth.compliance.ledger_certificate import check_witness_key
from fedhealth.errors import ConfigInvalid, FedHealthError, LedgerDamaged, LedgerForked
from fedhealth.privacy.release import Digest

BUNDLE_ENDING = ".bundle"


@dataclass(frozen=True)
class SiteLedger:
    """One site's ledger, verified.

    Attributes:
        path: where it was read.
        history: what it holds.
        exported: who exported it and when; None where it was read at the site.
    """

    path: Path
    history: History
    exported: Manifest | None

    @property
    def site(self) -> str:
        """The site's id."""
        return self.history.created.site


@dataclass(frozen=True)
class Unverified:
    """A ledger that nothing is said of.

    Attributes:
        name: the site's id where it is known for sure, else the path.
        error: why.
    """

    name: str
    error: FedHealthError


@dataclass(frozen=True)
class Federation:
    """Ledgers of several sites.

    Attributes:
        sites: those that were verified, in order of their ids.
        failed: those that were not, in the order in which they were met; missing ones last.
    """

    sites: tuple[SiteLedger, ...]
    failed: tuple[Unverified, ...]

    @property
    def unsafe_test_sites(self) -> tuple[str, ...]:
        """Sites whose noise is known."""
        return tuple(each.site for each in self.sites if each.history.created.unsafe_test_site)


def find_ledgers(path: Path) -> list[Path]:
    """Return the ledgers that a path stands for.

    A gate's folder, a site's state folder, a ledger's file or a bundle is one. Any other folder is many: each file in
    it that is a bundle by its name or content, and each site's state or gate's folder in it. The path itself is
    returned where there is none, so that reading it says so.
    """
    if not path.is_dir():
        return [path]
    if (one := _gate_in(path)) is not None:
        return [one]
    gates = [gate for each in sorted(path.iterdir()) if each.is_dir() and (gate := _gate_in(each)) is not None]
    return [*bundles_in(path), *gates] or [path]


def is_folder_of_ledgers(path: Path) -> bool:
    """Say whether a path stands for many ledgers, also where there is only one in it yet."""
    return path.is_dir() and _gate_in(path) is None and find_ledgers(path) != [path]


def bundles_in(folder: Path) -> list[Path]:
    """Return the files in a folder that are bundles by their name or content, damaged ones too."""
    files = (each for each in sorted(folder.iterdir()) if each.is_file())
    return [each for each in files if each.suffix == BUNDLE_ENDING or is_bundle(each)]


def read_site(path: Path, studies: Mapping[Digest, bytes] | None = None) -> SiteLedger:
    """Verify one ledger and return what it holds.

    Args:
        path: a gate's folder, a ledger's file, or a bundle.
        studies: signed studies by digest, for texts that are not beside the ledger.

    Raises:
        LedgerDamaged, IdentityInvalid: as in `read_gate` and `read_bundle`.
    """
    exported = None
    if is_bundle(path):
        history, exported = read_bundle(path.read_bytes())
    else:
        history = read_gate(path)
    return SiteLedger(path, history.with_studies(studies or {}), exported)


def read_federation(
    paths: Iterable[Path],
    *,
    expected: Collection[str] = (),
    studies: Mapping[Digest, bytes] | None = None,
    heads: Mapping[str, str] | None = None,
    witness_key: str | None = None,
) -> Federation:
    """Verify every ledger that the paths stand for.

    Args:
        paths: as for `find_ledgers`.
        expected: sites that must be among them.
        studies: as in `read_site`.
        heads: by site, the signed note of a head that its ledger must extend.
        witness_key: the coordinator's, as its operator told it, which each ledger must name; None to ask for none.
    """
    read: list[SiteLedger] = []
    failed: list[Unverified] = []
    known: set[str] = set()
    for path in dict.fromkeys(each for given in paths for each in find_ledgers(given)):
        name = str(path)
        try:
            ledger = read_site(path, studies)
            name = ledger.site
            known.add(name)
            if witness_key is not None:
                check_witness_key(ledger.history.ledger.verified, witness_key)
            if note := (heads or {}).get(name):
                ledger.history.check_seen(note)
            read.append(ledger)
        except FedHealthError as error:
            failed.append(Unverified(name, error))
        except OSError as error:
            failed.append(Unverified(name, _unreadable(path, error)))
    sites: dict[str, SiteLedger] = {}
    for ledger in sorted(read, key=lambda each: len(each.history.ledger.entries)):
        before = sites.get(ledger.site)
        if before is not None and not _extends(ledger, before):
            failed.append(Unverified(ledger.site, _two_histories(before, ledger)))
        sites[ledger.site] = ledger
    bad = {each.name for each in failed}
    failed += [Unverified(site, _missing(site)) for site in expected if site not in known]
    return Federation(tuple(sites[site] for site in sorted(sites) if site not in bad), tuple(failed))


def _gate_in(folder: Path) -> Path | None:
    if (folder / "ledger.sqlite").is_file():
        return folder
    return folder / "gate" if (folder / "gate").is_dir() else None


def _extends(later: SiteLedger, earlier: SiteLedger) -> bool:
    entries = earlier.history.ledger.entries
    return later.history.ledger.entries[: len(entries)] == entries


def _two_histories(one: SiteLedger, other: SiteLedger) -> LedgerDamaged:
    return LedgerForked(
        f"site '{one.site}' has two ledgers, and neither extends the other",
        got=f"{one.path} and {other.path}, each signed by the site's ledger key",
        wanted="one history",
        next_step="Keep both as evidence and ask the site's administrator; nothing of this site is counted.",
    )


def _unreadable(path: Path, error: OSError) -> ConfigInvalid:
    return ConfigInvalid(
        f"cannot read {path}", got=error.strerror or "an error", next_step="Check the path and its permissions."
    )


def _missing(site: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"there is no ledger of site '{site}'",
        wanted="its gate's folder or its exported bundle",
        next_step="Ask the site for a bundle: fedhealth audit export.",
    )
