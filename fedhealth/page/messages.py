"""What the page asks the process that searches, and what that answers: JSON of known form and bounded length.

Both ends live by this file. An end that gets anything else hangs up: the page says that the search is away, and a new
process takes its place.
"""

import datetime
import socket
import struct
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedhealth.search.documents import MAX_NAME_CHARACTERS, Assertion, Code, DocumentFilter, Kind, Sex
from fedhealth.study.count_query import MAX_CODES
from fedhealth.study.count_query import Code as CountedCode
from fedhealth.unix_socket import receive_exactly

MAX_QUESTION_CHARACTERS = 20_000
MAX_HITS = 50
MAX_QUESTION_BYTES = 2**18
MAX_ANSWER_BYTES = 2**24
MAX_TEXT_CHARACTERS = 2_000_000
"""Of a document that is shown whole; of a longer one the beginning is."""
_LENGTH = struct.Struct("!I")
_Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Only(_Message):
    """Which documents a question is about; as `DocumentFilter`, with codes as "icd10:I50"."""

    kinds: tuple[Kind, ...] = ()
    since: datetime.date | None = None
    until: datetime.date | None = None
    youngest: int | None = None
    oldest: int | None = None
    sex: Sex | None = None
    codes: Annotated[tuple[CountedCode, ...], Field(max_length=20)] = ()
    patient: _Name | None = None

    def filter(self) -> DocumentFilter:
        """Return it as the search engine takes it.

        Raises:
            DataUnusable: nothing could ever pass.
        """
        parts = (code.partition(":") for code in self.codes)
        codes = frozenset(Code("atc" if system == "atc" else "icd10", value) for system, _, value in parts)
        fields = self.model_dump() | {"kinds": frozenset(self.kinds), "codes": codes}
        return DocumentFilter(**fields)


class SearchAsked(_Message):
    """A question to the index."""

    ask: Literal["search"] = "search"
    query: Annotated[str, Field(max_length=MAX_QUESTION_CHARACTERS, repr=False)]
    only: Only = Only()
    include_negated: bool = False
    limit: Annotated[int, Field(ge=1, le=MAX_HITS)] = 10


class DocumentAsked(_Message):
    """A document, whole."""

    ask: Literal["document"] = "document"
    source: _Name
    key: _Name


class NamesAsked(_Message):
    """What codes mean."""

    ask: Literal["names"] = "names"
    codes: Annotated[tuple[CountedCode, ...], Field(max_length=MAX_CODES)]


class _Received(BaseModel):
    """An answer's part; a field that this page does not know is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Mark(_Received):
    """Words of a passage that were asked for: offsets in its text."""

    start: int
    end: int
    assertion: Assertion
    asked: str
    kind: str


class FoundDocument(_Received):
    """A hit."""

    rank: int
    source: str
    key: str
    patient: str | None
    kind: Kind
    title: str
    date: datetime.date | None
    age: int | None
    sex: Sex | None
    codes: tuple[str, ...]
    section: str
    start: int
    text: str
    highlights: tuple[Mark, ...]
    reasons: tuple[str, ...]
    publishers: tuple[str, ...] = ()


class SearchedCorpus(_Received):
    """Articles that a hospital published, as they are indexed here."""

    site: str
    corpus: str
    articles: int
    published: str = ""


class Searched(_Received):
    """What an answer rests on."""

    documents: dict[str, int]
    passages: int
    without_vector: int
    by_meaning: bool
    left_out: int
    corpora: tuple[SearchedCorpus, ...] = ()
    missing: dict[str, str] = Field(default_factory=dict)
    heard: str | None = None


class ProposedCode(_Received):
    """A code that a question named in words or by itself, with its names; unwanted where the question denies it."""

    code: CountedCode
    fr: str
    en: str
    unwanted: bool


class Found(_Received):
    """An index's answer; `proposed` is empty where the question may hold an identifier or a letter."""

    answer: Literal["found"]
    understood: tuple[str, ...]
    denied: tuple[str, ...]
    unknown: tuple[str, ...]
    hits: tuple[FoundDocument, ...]
    searched: Searched
    proposed: Annotated[tuple[ProposedCode, ...], Field(max_length=MAX_CODES)]


class WholeDocument(_Received):
    """A document's text, and whether it goes on."""

    answer: Literal["document"]
    source: str
    key: str
    patient: str | None
    kind: Kind
    title: str
    date: datetime.date | None
    age: int | None
    sex: Sex | None
    codes: tuple[str, ...]
    text: str
    is_cut: bool


class Names(_Received):
    """What codes mean, in French and English; one that no classification has is left out."""

    answer: Literal["names"]
    fr: dict[str, str]
    en: dict[str, str]


class Refused(_Received):
    """Why there is no answer, in words for a person; none of them depends on more than the question."""

    answer: Literal["refused"]
    what: str
    next_step: str = ""


QUESTION = TypeAdapter[SearchAsked | DocumentAsked | NamesAsked](
    Annotated[SearchAsked | DocumentAsked | NamesAsked, Field(discriminator="ask")]
)
ANSWER = TypeAdapter[Found | WholeDocument | Names | Refused](
    Annotated[Found | WholeDocument | Names | Refused, Field(discriminator="answer")]
)


def send_bytes(connection: socket.socket, data: bytes) -> None:
    """Send one message.

    Raises:
        OSError: the other end is gone.
    """
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive_bytes(connection: socket.socket, most: int) -> bytes:
    """Return one message.

    Raises:
        OSError: the other end is gone, or sends more than it may.
    """
    (length,) = _LENGTH.unpack(receive_exactly(connection, _LENGTH.size))
    if length > most:
        raise ConnectionResetError("a message is too long")
    return bytes(receive_exactly(connection, length))


def read_question(data: bytes) -> SearchAsked | DocumentAsked | NamesAsked:
    """Return what is asked.

    Raises:
        OSError: it is nothing that may be.
    """
    try:
        return QUESTION.validate_json(data)
    except ValidationError:
        raise ConnectionResetError("a question has another form") from None


def read_answer(data: bytes) -> Found | WholeDocument | Names | Refused:
    """Return an answer; errors as `read_question`."""
    try:
        return ANSWER.validate_json(data)
    except ValidationError:
        raise ConnectionResetError("an answer has another form") from None
