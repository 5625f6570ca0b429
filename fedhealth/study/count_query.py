"""What a hospital may be asked to count, and by whom: typed codes, bands of age, a calendar quarter; never free text.

A query is counted once: its canonical bytes, the quarter among them, name the answer, whoever asks. So they hold
nothing of the asker, and one question has one form: sorted codes, none that another of its list covers. A code stands
for everything below it ("I50" for "I50.1", "N04B" for "N04BA02").

Who asks is a clinician or researcher whom a hospital of the study vouches for: it signs their key and role with its
asking key, and they sign the query and its purpose. Torch-free; both sides of the border live by this file.

Sources: ICD-10 (WHO) and CIM-10 (ATIH) for the form of diagnoses, the ATC index (WHO) for that of drugs.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, StringConstraints, ValidationError, model_validator

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.signing import load_public_key, public_key_hex, sign, verify
from fedhealth.study.head import PurposeClass
from fedhealth.study.part import Part, StudyName

MAX_CODES = 6
"""Codes of one query, wanted and unwanted together: with more, a query could describe one patient."""
AGE_BAND = 5
"""Years: ages are asked for in whole bands of so many."""
OLDEST = 120
MAX_SIGNED_QUERY_BYTES = 8192

CODE_PATTERN = r"^(icd10:[A-Z][0-9][0-9A-Z](\.[0-9A-Z]{1,4})?|atc:[A-Z]([0-9]{2}([A-Z]([A-Z]([0-9]{2})?)?)?)?)$"
Code = Annotated[str, StringConstraints(pattern=CODE_PATTERN)]
"""A diagnosis such as "icd10:I50.1", or a drug or group of drugs such as "atc:N04BA"."""
Quarter = Annotated[str, StringConstraints(pattern=r"^20[0-9]{2}-Q[1-4]$")]
"""A calendar quarter in UTC, such as "2026-Q4"."""
Role = Literal["clinician", "researcher"]
Sex = Literal["female", "male"]
_Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
_VOUCHED, _ASKED = "asker", "count-query"


class CountQuery(Part):
    """Which patients are counted: those with every code of one list and no code of another, of an age and a sex.

    Attributes:
        quarter: the answer is of this quarter, for all who ask in it.
        all_of: codes of which a counted patient has each, or one below it; sorted.
        none_of: codes of which a counted patient has none, and none below it; sorted.
        ages: first and last year of life, both multiples of five with the last one excluded; None for any, with
            patients whose age is not known.
        sex: None for any, with patients whose sex is not known.
    """

    quarter: Quarter
    all_of: Annotated[tuple[Code, ...], Field(min_length=1, max_length=MAX_CODES)]
    none_of: Annotated[tuple[Code, ...], Field(max_length=MAX_CODES - 1)] = ()
    ages: tuple[Annotated[int, Field(ge=0, le=OLDEST)], Annotated[int, Field(ge=0, le=OLDEST)]] | None = None
    sex: Sex | None = None

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if len(self.all_of) + len(self.none_of) > MAX_CODES:
            raise ValueError(f"{len(self.all_of) + len(self.none_of)} codes, wanted at most {MAX_CODES}")
        if self.all_of != most_specific(self.all_of) or self.none_of != most_general(self.none_of):
            raise ValueError("codes that are not sorted, or that others of their list cover")
        if hopeless := [code for code in self.all_of if any(covers(none, code) for none in self.none_of)]:
            raise ValueError(f"{', '.join(hopeless)} is wanted and unwanted at once")
        if self.ages is not None:
            low, high = self.ages
            if not low < high or low % AGE_BAND or high % AGE_BAND:
                raise ValueError(f"ages are {low} to {high}, wanted two multiples of {AGE_BAND}, the lower first")
        return self

    @property
    def input_bytes(self) -> bytes:
        """What names the answer: the canonical bytes of the query alone."""
        return canonical_bytes(self)


def covers(general: str, code: str) -> bool:
    """Say whether a code is another one or stands above it."""
    return code.replace(".", "").startswith(general.replace(".", ""))


def most_specific(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Return codes sorted, each once, without those that another one implies: who has "I50.1" has "I50"."""
    return tuple(sorted({code for code in codes if not any(code != other and covers(code, other) for other in codes)}))


def most_general(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Return codes sorted, each once, without those that another one covers: who has no "I50" has no "I50.1"."""
    return tuple(sorted({code for code in codes if not any(code != other and covers(other, code) for other in codes)}))


def quarter_of(unix_ms: int) -> str:
    """Return the calendar quarter of a time, in UTC."""
    at = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return f"{at.year}-Q{(at.month + 2) // 3}"


class AskerCertificate(Part):
    """A hospital's word that whoever holds a key may ask, in a role, until the end of a quarter.

    Attributes:
        site: the hospital, which knows who it is; nobody else is told.
        key: the asker's raw Ed25519 public key, hexadecimal.
        role: the asker's.
        until: the last quarter in which they may ask.
        signature: of the hospital's asking key over the rest, in the domain "asker".
    """

    site: StudyName
    key: _Key
    role: Role
    until: Quarter
    signature: _Signature

    def statement(self) -> bytes:
        """Return the bytes that the hospital signs."""
        return canonical_bytes(self.model_dump(mode="json", exclude={"signature"}))


class SignedQuery(Part):
    """A query with its asker and purpose: the whole of what leaves the asker's hospital.

    Attributes:
        study: digest of the search study that lets it be asked.
        query: what is to be counted.
        purpose: of the study's class.
        asker: the certificate of who asks.
        signature: of the asker's key over study, query and purpose, in the domain "count-query".
    """

    study: _Key
    query: CountQuery
    purpose: PurposeClass
    asker: AskerCertificate
    signature: _Signature

    def statement(self) -> bytes:
        """Return the bytes that the asker signs."""
        return canonical_bytes([self.study, self.query.model_dump(mode="json"), self.purpose])


def vouch(site: str, key: str, role: Role, until: str, asking_key: Ed25519PrivateKey) -> AskerCertificate:
    """Return a hospital's word for an asker.

    Args:
        site: the hospital's id.
        key: the asker's public key, hexadecimal.
        role: the asker's.
        until: the last quarter in which they may ask.
        asking_key: the hospital's.
    """
    certificate = AskerCertificate(site=site, key=key, role=role, until=until, signature="0" * 128)
    return certificate.model_copy(update={"signature": sign(asking_key, _VOUCHED, certificate.statement()).hex()})


def sign_query(
    study: str, query: CountQuery, purpose: PurposeClass, asker: AskerCertificate, key: Ed25519PrivateKey
) -> SignedQuery:
    """Return a query signed by its asker.

    Raises:
        IdentityInvalid: the certificate is of another key.
    """
    if public_key_hex(key.public_key()) != asker.key:
        raise IdentityInvalid(
            "the asker's certificate is of another key",
            next_step="Ask the administrator of this site for a certificate: fedhealth site vouch --help.",
        )
    unsigned = SignedQuery(study=study, query=query, purpose=purpose, asker=asker, signature="0" * 128)
    return unsigned.model_copy(update={"signature": sign(key, _ASKED, unsigned.statement()).hex()})


def open_signed_query(data: bytes) -> SignedQuery:
    """Return a signed query whose asker's signature holds; whether the hospital's does is for `check_asker`.

    Raises:
        IdentityInvalid: too large, malformed, not in its one form, or not signed by the asker.
    """
    try:
        if len(data) > MAX_SIGNED_QUERY_BYTES:
            raise ValueError("too large")
        signed = SignedQuery.model_validate_json(data)
        if canonical_bytes(signed) != data:
            raise ValueError("not canonical")
        verify(load_public_key(signed.asker.key), _ASKED, signed.statement(), bytes.fromhex(signed.signature))
    except (ValidationError, ValueError, IdentityInvalid) as error:
        raise IdentityInvalid(
            "the query cannot be trusted",
            got="bytes that are malformed, changed, or signed by another key",
            wanted="a query in canonical form with its asker's Ed25519 signature",
            next_step="Ask again with the same version of fedhealth as the hospitals.",
        ) from error
    return signed


def check_asker(certificate: AskerCertificate, asking_key: str, quarter: str) -> None:
    """Return if a hospital vouches for an asker in a quarter.

    Args:
        certificate: the asker's.
        asking_key: the hospital's public key, hexadecimal.
        quarter: in which the query is asked.

    Raises:
        IdentityInvalid: it does not.
    """
    verify(load_public_key(asking_key), _VOUCHED, certificate.statement(), bytes.fromhex(certificate.signature))
    if quarter > certificate.until:
        raise IdentityInvalid(
            f"site '{certificate.site}' vouched for this asker until {certificate.until}",
            got=f"a query of {quarter}",
            next_step="Ask the administrator there for a new certificate: fedhealth site vouch --help.",
        )


def count_query(
    quarter: str,
    all_of: tuple[str, ...],
    none_of: tuple[str, ...] = (),
    ages: tuple[int, int] | None = None,
    sex: Sex | None = None,
) -> CountQuery:
    """Return a query in its one form, from codes in any order.

    Raises:
        ConfigInvalid: it is none; says why.
    """
    if strange := [code for code in (*all_of, *none_of) if not re.fullmatch(CODE_PATTERN, code)]:
        raise ConfigInvalid(
            "other hospitals cannot be asked to count this",
            got=f"{', '.join(map(repr, strange))}, which is no code",
            wanted="codes of ICD-10 or ATC with the system before them, such as icd10:G20, icd10:I50.1 or atc:N04BA",
            next_step="Correct the codes; free text never leaves.",
        )
    try:
        return CountQuery(
            quarter=quarter, all_of=most_specific(all_of), none_of=most_general(none_of), ages=ages, sex=sex
        )
    except ValidationError as error:
        raise ConfigInvalid(
            "other hospitals cannot be asked to count this",
            got="; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors()[:3]),
            wanted=f"1 to {MAX_CODES} codes such as icd10:G20 or atc:N04BA, ages in whole bands of {AGE_BAND} years",
            next_step="Correct the codes or the ages; free text never leaves.",
        ) from error


def ages_of(text: str) -> tuple[int, int] | None:
    """Return the ages that a person typed, such as "60-80"; None for none.

    Raises:
        ConfigInvalid: it is no band.
    """
    if not text:
        return None
    low, _, high = text.partition("-")
    if not re.fullmatch("[0-9]{1,3}-[0-9]{1,3}", text):
        raise ConfigInvalid("these are no ages", got=text, wanted='two numbers, such as "60-80"')
    return int(low), int(high)
