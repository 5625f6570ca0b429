"""What the shell offers after Tab: the studies, sites and researchers that this machine knows by name.

Each offer is read from files that are here, without a socket, a ledger or torch, so that it comes at once; where this
user may not read them, or anything is odd about them, nothing is offered and nothing is said. Invariant: no offer comes
from a table of patients.
"""

from collections.abc import Iterator
from pathlib import Path

import click

_MOST_FILES = 200


def offered_studies(context: click.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the digests of the studies that the coordinator offers to the site."""
    state = _state(context)
    return [] if state is None else _digests(state / "node" / "offers", "*.json", incomplete)


def approved_studies(context: click.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer the digests of the studies that were approved at the site."""
    state = _state(context)
    return [] if state is None else _digests(state / "gate" / "studies", "*.json", incomplete)


def signed_studies(incomplete: str) -> list[tuple[str, str]]:
    """Offer the digests of the signed studies in this folder."""
    return _digests(Path(), "*.signed", incomplete)


def joined_sites(context: click.Context, incomplete: str) -> list[str]:
    """Offer the ids of the sites that ever joined the coordinator's federation."""
    home = context.params.get("home")
    return [] if home is None else [path.stem for path in _files(Path(home) / "sites", "*.json", incomplete)]


def allowed_researchers(context: click.Context, incomplete: str) -> list[str]:
    """Offer the names of the researchers whom the site's policy allows."""
    import tomllib

    from fedhealth.secret_file import read_plain_file

    folder = context.params.get("folder")
    if folder is None:
        return []
    try:
        names = tomllib.loads(read_plain_file(Path(folder) / "policy.toml", 1 << 20).decode())["researchers"]
        return [name for name in names if name.startswith(incomplete)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def rejection_reasons(incomplete: str) -> list[str]:
    """Offer the words by which a study can be rejected."""
    from typing import get_args

    from fedhealth.privacy.decisions import RejectionReason

    return [reason for reason in get_args(RejectionReason) if reason.startswith(incomplete)]


def table_formats(incomplete: str) -> list[str]:
    """Offer the formats of a hospital's table."""
    from fedhealth.table_source import TABLE_FORMATS

    return [known for known in TABLE_FORMATS if known.startswith(incomplete)]


def _state(context: click.Context) -> Path | None:
    """Return the site's state folder: the one that was typed, or state/SITE where the examples have it."""
    state, folder = context.params.get("state"), context.params.get("folder")
    if state is not None:
        return Path(state)
    return None if folder is None else Path("state") / Path(folder).resolve().name


def _digests(folder: Path, pattern: str, incomplete: str) -> list[tuple[str, str]]:
    """Return digest and name of the studies in a folder whose signature holds; somebody else may write there."""
    from fedhealth.errors import IdentityInvalid
    from fedhealth.secret_file import read_plain_file
    from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES, open_signed_study

    found = {}
    for path in _files(folder, pattern, ""):
        try:
            study = open_signed_study(read_plain_file(path, MAX_SIGNED_STUDY_BYTES)).study
        except (OSError, IdentityInvalid):
            continue
        found[study.digest] = study.name
    return [(digest, name) for digest, name in sorted(found.items()) if digest.startswith(incomplete)]


def _files(folder: Path, pattern: str, incomplete: str) -> Iterator[Path]:
    try:
        paths = sorted(folder.glob(pattern))[:_MOST_FILES]
    except OSError:
        paths = []
    return (path for path in paths if path.name.startswith(incomplete))
