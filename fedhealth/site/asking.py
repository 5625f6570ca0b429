"""What `fedhealth count` and the clinician's page do alike: make a query, say what leaves, hand it in, say what came.

Invariants: the bytes that a person is shown are the bytes that leave; nothing leaves before `have_counted`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ConfigInvalid, FederationFailed
from fedhealth.link.counts import CountAnswer
from fedhealth.search.foresight import half_width_of_count
from fedhealth.secret_file import read_file
from fedhealth.signing import load_signing_key, public_key_hex
from fedhealth.site.askers import read_certificate
from fedhealth.site.count_port import ask_elsewhere
from fedhealth.study.coded_cohort import query_words
from fedhealth.study.count_query import AskerCertificate, CountQuery, Sex, count_query, quarter_of, sign_query
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import SignedSearch, open_signed


@dataclass(frozen=True)
class PreparedCount:
    """A count that waits for its asker's word.

    Attributes:
        query: what is to be counted.
        signed: canonical bytes of it with its asker and purpose: all that leaves.
    """

    query: CountQuery
    signed: bytes


@dataclass(frozen=True)
class Asker:
    """Who asks, and under which study.

    Attributes:
        study: the search study.
        certificate: the hospital's word for the asker.
        key: the asker's.
    """

    study: SearchStudy
    certificate: AskerCertificate
    key: Ed25519PrivateKey

    def prepare(
        self, having: tuple[str, ...], without: tuple[str, ...], ages: tuple[int, int] | None, sex: Sex | None, now: int
    ) -> PreparedCount:
        """Return a query with its asker's signature; nothing leaves.

        Args:
            having: codes that who is counted has.
            without: codes that they have not.
            ages: whole bands of five years, the end excluded.
            sex: of them.
            now: the time, in milliseconds since 1970; its quarter is part of the query.

        Raises:
            ConfigInvalid: the query is none.
        """
        query = count_query(quarter_of(now), having, without, ages, sex)
        signed = sign_query(self.study.digest, query, self.study.purpose_class, self.certificate, self.key)
        return PreparedCount(query, canonical_bytes(signed))


def load_asker(study: Path, key: Path, certificate: Path) -> Asker:
    """Read who asks.

    Args:
        study: the signed search study.
        key: the asker's signing key.
        certificate: the hospital's word for it.

    Raises:
        ConfigInvalid: a file is not what it should be.
        IdentityInvalid: the certificate is of another key, or a file cannot be trusted.
    """
    signed = open_signed(read_file(study))
    if not isinstance(signed, SignedSearch):
        raise ConfigInvalid(f"{study} is no search study", next_step="Give the one that the hospitals approved.")
    found = Asker(signed.study, read_certificate(certificate), load_signing_key(key))
    if public_key_hex(found.key.public_key()) != found.certificate.key:
        raise ConfigInvalid(
            f"{certificate} is of another key than {key}",
            next_step="Ask the administrator of this site for a certificate: fedhealth site vouch --help.",
        )
    return found


def words_of_leaving(query: CountQuery, study: SearchStudy) -> Iterator[str]:
    """Yield in words all that leaves this hospital with a query."""
    yield from (f"{name:<9} {value}" for name, value in query_words(query))
    yield f"for       {study.purpose_class}, under study '{study.name}' ({study.digest[:12]})"
    yield "and your public key with your role and your hospital's name; nothing else"


def have_counted(port: Path, prepared: PreparedCount) -> CountAnswer:
    """Let a query leave, and return what the other hospitals say.

    Args:
        port: the node's socket.
        prepared: what leaves.

    Raises:
        ConfigInvalid: this user may not ask.
        LinkUnavailable: the site is not running, or the coordinator gave no answer.
        FederationFailed: nobody was asked.
    """
    found = ask_elsewhere(port, prepared.signed)
    if found.refused:
        raise FederationFailed("the coordinator asked nobody", got=found.refused, next_step="Nothing was charged.")
    return found


@dataclass(frozen=True)
class CountFigures:
    """What an answer says, in numbers.

    Attributes:
        half_width: each count is within so many of the truth in 19 of 20.
        fewer_than: noisy counts below this are not told.
        total: of all counts that were told, if there is one.
        total_half_width: of it.
    """

    half_width: int
    fewer_than: int
    total: int | None
    total_half_width: int | None


def figures_of(found: CountAnswer, study: SearchStudy) -> CountFigures:
    """Return the figures of an answer."""
    counted = [each for each in found.counts.values() if each is not None]
    epsilon = study.counts.epsilon
    return CountFigures(
        half_width=half_width_of_count(epsilon),
        fewer_than=study.counts.least_shown,
        total=sum(counted) if counted else None,
        total_half_width=half_width_of_count(epsilon, len(counted)) if counted else None,
    )
