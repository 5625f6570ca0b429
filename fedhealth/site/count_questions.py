"""What a gate is asked to count, and whether whoever asks may: by signatures and public figures alone.

Invariant: nothing here depends on patients, so that a refusal says nothing about them.
"""

from dataclasses import dataclass

from fedhealth.errors import IdentityInvalid
from fedhealth.link.memory import Buffer
from fedhealth.privacy.asked_counts import Asker
from fedhealth.privacy.release import Digest, input_digest
from fedhealth.study.count_query import CountQuery, check_asker, open_signed_query
from fedhealth.study.search_study import SearchStudy


@dataclass(frozen=True)
class CountQuestion:
    """A query that may be asked.

    Attributes:
        query: which patients.
        asker: who pays for it, if it is new.
    """

    query: CountQuery
    asker: Asker

    @property
    def digest(self) -> Digest:
        """What names the answer: the query alone, whoever asks."""
        return input_digest(self.query.input_bytes)


def open_question(data: Buffer, study: SearchStudy) -> CountQuestion:
    """Return the query of a frame's body.

    Args:
        data: a signed query; anything at all.
        study: the search study that it is asked under.

    Raises:
        IdentityInvalid: it is none; or of another study or purpose; or nobody whom this study knows vouches for its
            asker, role and quarter.
    """
    signed = open_signed_query(bytes(data))
    asker, quarter = signed.asker, signed.query.quarter
    key = study.asking_key(asker.site)
    fits = (
        signed.study == study.digest
        and signed.purpose == study.purpose_class
        and asker.role in study.roles
        and study.first_quarter <= quarter <= study.last_quarter
    )
    if key is None or not fits:
        raise IdentityInvalid(
            f"a query is not one of search study '{study.name}'",
            got="another study, purpose, role, quarter or hospital than it names",
            next_step="Nothing was charged.",
        )
    check_asker(asker, key, quarter)
    return CountQuestion(signed.query, Asker(key=asker.key, quarter=quarter, site=asker.site))
