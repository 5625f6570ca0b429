"""A published corpus: articles in parts of bounded size, named by their hashes, under one signed manifest.

A part is lines of canonical JSON, one article each, in the order of their keys. Where a part ends follows from the
articles near its end alone, so that a corpus that changed a little has most of its parts unchanged, and only the others
are carried. A version is the moment of its publication: of two, the later one counts, also where the publisher lost all
memory of the earlier. A corpus that was withdrawn is a manifest without articles.

Source of the cut: content-defined chunking (Muthitacharoen, Chen & Mazieres, "A low-bandwidth network file system",
SOSP 2001), on whole articles.

Invariants: a value that exists is well formed and bounded; one corpus has one form. No input or output here.

Leaves to others: whose key is believed and which version is newer (`store`), what an article says (search).
"""

import datetime
import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import DataUnusable, IdentityInvalid
from fedhealth.signing import load_public_key, public_key_hex, sign, verify

MAX_PART_BYTES = 2**20
MAX_ARTICLE_BYTES = 2**18
"""Of one line: some 250 pages."""
MAX_ARTICLES = 200_000
MAX_CORPUS_BYTES = 2**28
MAX_PARTS = 1100
MAX_MANIFEST_BYTES = 2**17
LEAST_PART_BYTES = 2**18
_CUT_ONE_IN = 64
_DOMAIN = "corpus"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Article(_Value):
    """One article, as everybody may read it.

    Attributes:
        key: names it within its corpus.
        title: may be empty.
        text: what is searched.
        date: when it appeared, if known.
        language: of the text, if known.
    """

    key: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    title: Annotated[str, StringConstraints(max_length=1000)] = ""
    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ARTICLE_BYTES)]
    date: datetime.date | None = None
    language: Literal["fr", "en"] | None = None


class Part(_Value):
    """A part of a corpus.

    Attributes:
        sha256: of its bytes.
        bytes: how many there are.
    """

    sha256: Hash
    bytes: Annotated[int, Field(ge=1, le=MAX_PART_BYTES)]


class Manifest(_Value):
    """What a site publishes under one name.

    Attributes:
        format: of the parts.
        site: who publishes.
        corpus: the name, the site's own choice.
        licence: under which anybody may read it, such as "CC-BY-4.0"; empty once it is withdrawn.
        version: when it was published, Unix time in milliseconds; of two the higher counts.
        articles: how many there are.
        parts: in order; none once it is withdrawn.
        key: raw Ed25519 public key of the publisher, hexadecimal.
    """

    format: Literal[1] = 1
    site: Name
    corpus: Name
    licence: Annotated[str, StringConstraints(max_length=200)]
    version: Annotated[int, Field(ge=1, le=2**53 - 1)]
    articles: Annotated[int, Field(ge=0, le=MAX_ARTICLES)]
    parts: Annotated[tuple[Part, ...], Field(max_length=MAX_PARTS)]
    key: Hash

    @model_validator(mode="after")
    def _is_whole_or_withdrawn(self) -> Self:
        if len({bool(self.parts), bool(self.articles), bool(self.licence.strip())}) != 1:
            raise ValueError("a corpus has parts, articles and a licence, or, once withdrawn, none of them")
        if not self.licence.isprintable():
            raise ValueError("a licence is one line")
        if self.bytes > MAX_CORPUS_BYTES or len({part.sha256 for part in self.parts}) != len(self.parts):
            raise ValueError("a corpus is too large, or has a part twice")
        return self

    @property
    def bytes(self) -> int:
        """The size of all parts."""
        return sum(part.bytes for part in self.parts)

    @property
    def withdrawn(self) -> bool:
        """Whether this says that there is no such corpus any more."""
        return not self.parts

    @property
    def published(self) -> datetime.datetime:
        """When it was published, as its publisher says; at most the last moment that a calendar knows."""
        latest = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)
        return datetime.datetime.fromtimestamp(min(self.version / 1000, latest.timestamp()), datetime.UTC)


class _Signed(_Value):
    manifest: Manifest
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """Return a manifest with its publisher's signature, as it travels.

    Raises:
        ValueError: the manifest names another key (a mistake in the program).
    """
    if manifest.key != public_key_hex(key.public_key()):
        raise ValueError("a manifest is signed with the key that it names")
    return canonical_bytes(_Signed(manifest=manifest, signature=sign(key, _DOMAIN, canonical_bytes(manifest)).hex()))


def open_manifest(data: bytes) -> Manifest:
    """Return a manifest whose signature by the key in it holds; whose key that is, is for the caller to know.

    Raises:
        IdentityInvalid: it is none, or not in its one form, or the signature does not hold.
    """
    try:
        signed = _Signed.model_validate_json(data if len(data) <= MAX_MANIFEST_BYTES else b"")
    except ValidationError as error:
        raise _no_manifest() from error
    if canonical_bytes(signed) != data:
        raise _no_manifest()
    verify(
        load_public_key(signed.manifest.key),
        _DOMAIN,
        canonical_bytes(signed.manifest),
        bytes.fromhex(signed.signature),
    )
    return signed.manifest


def _no_manifest() -> IdentityInvalid:
    return IdentityInvalid("this is no manifest of a corpus", next_step="Ask its publisher to publish it again.")


def line_of(article: Article) -> bytes:
    """Return an article as a line of a part.

    Raises:
        DataUnusable: it is longer than an article may be.
    """
    line = canonical_bytes(article) + b"\n"
    if len(line) > MAX_ARTICLE_BYTES:
        raise DataUnusable(
            "an article is too long to be published",
            got=f"{len(line):,} bytes",
            wanted=f"at most {MAX_ARTICLE_BYTES:,}",
            next_step="Shorten or split it.",
        )
    return line


def parts_of(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts that lines of articles make, which are sorted by their articles' keys.

    Example:
        >>> [len(part) for part in parts_of([line_of(Article(key="1", text="a"))])]
        [62]
    """
    part, size = list[bytes](), 0
    for line in lines:
        if size + len(line) > MAX_PART_BYTES:
            yield b"".join(part)
            part, size = [], 0
        part.append(line)
        size += len(line)
        if size >= LEAST_PART_BYTES and hashlib.sha256(line).digest()[0] % _CUT_ONE_IN == 0:
            yield b"".join(part)
            part, size = [], 0
    if part:
        yield b"".join(part)


def part_named(data: bytes) -> Part:
    """Return how a part is named in a manifest."""
    return Part(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def articles_in(part: bytes) -> Iterator[Article]:
    """Yield the articles of a part.

    Raises:
        DataUnusable: a line is no article, or not in its one form; those before it were yielded.
    """
    for line in part.splitlines(keepends=True):
        try:
            article = Article.model_validate_json(line if len(line) <= MAX_ARTICLE_BYTES else b"")
            whole = canonical_bytes(article) + b"\n" == line
        except (ValidationError, ValueError):
            whole = False
        if not whole:
            raise DataUnusable(
                "a part of a corpus holds what is no article", next_step="Ask its publisher to publish it again."
            )
        yield article
