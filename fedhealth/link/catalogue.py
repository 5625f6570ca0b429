"""The study catalogue: which studies wait for a site, as the signed bytes of each and nothing else.

A site asks for it over the link; the coordinator answers. Both ends of it are here. What the bytes mean is for the site
to judge: its node puts them beside its own files, and an administrator opens them, with the researcher's signature.

A catalogue is, for each study, a four-byte length and that many bytes; at most `MAX_STUDIES` studies.
"""

import struct
from collections.abc import Iterable

from fedhealth.errors import LinkUnavailable
from fedhealth.link.memory import Buffer
from fedhealth.link.services import Service, service_of
from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES

CATALOGUE = "studies"
"""Name of the service at the coordinator; its question is empty."""
MAX_STUDIES = 16
MAX_CATALOGUE_BYTES = MAX_STUDIES * (4 + MAX_SIGNED_STUDY_BYTES)

_LENGTH = struct.Struct("!I")


def catalogue_service(signed_studies: Iterable[bytes]) -> Service:
    """Return the service that tells a site which studies wait for it.

    Args:
        signed_studies: at most `MAX_STUDIES`, none longer than a signed study may be; gone through at each question.
    """

    async def tell(_question: bytes) -> bytes:
        return b"".join(_LENGTH.pack(len(study)) + study for study in signed_studies)

    return service_of(tell, longest_question=0)


def studies_in(catalogue: Buffer) -> tuple[bytes, ...]:
    """Return the signed bytes of each study of a catalogue; whether a signature holds is not looked at.

    Raises:
        LinkUnavailable: the coordinator sent something else.
    """
    studies: list[bytes] = []
    offset = 0
    while offset < len(catalogue):
        start = offset + _LENGTH.size
        length = _LENGTH.unpack_from(catalogue, offset)[0] if start <= len(catalogue) else 0
        offset = start + length
        if not 0 < length <= MAX_SIGNED_STUDY_BYTES or offset > len(catalogue) or len(studies) == MAX_STUDIES:
            raise LinkUnavailable(
                "the coordinator's list of studies is not one",
                next_step="Nothing is lost; ask for the study's file in another way, and tell the coordinator.",
            )
        studies.append(bytes(catalogue[start:offset]))
    return tuple(studies)
