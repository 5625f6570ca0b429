"""Corpora over the link: who has them says which, who wants them fetches what it lacks; the same at both ends.

The coordinator asks each site for what it publishes, and each site asks the coordinator for what all others do. A
question is empty, for the list, or names a manifest or a part; an answer is bytes that the asker checks by itself.

**Rule 0.** Everything that is listed is fetched, when a connection begins and then at a fixed rhythm, whoever searches
for whatever. So what a site asks for says nothing of its patients or clinicians.

Invariants: an answer is no longer than what was asked for may be; a list is bounded; a fetch that is cut off goes on
where it was, by the parts that are there.

Leaves to others: what is kept and believed (`store`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.corpora.corpus import MAX_MANIFEST_BYTES, Hash, Name
from fedhealth.corpora.store import MAX_CORPORA, MAX_SITES, Address, CorpusRefused, CorpusStore
from fedhealth.errors import FedHealthError, IdentityInvalid, LinkUnavailable
from fedhealth.link.memory import Buffer
from fedhealth.link.services import Service, service_of

CORPORA = "corpora"
"""Name of the service, at the coordinator and at a site."""
MAX_LIST_BYTES = 2**22
EVERY_SECONDS = 600.0
"""Between one fetch and the next; public, and the same for all."""
PACE_SECONDS = 0.15
"""Between two questions: well below what a site may ask a second, and some megabytes a second."""
_MAX_QUESTION_BYTES = 512
_ASK_SECONDS = 60.0


class Ask(Protocol):
    """What asks the other end a service, as `fedhealth.link` does."""

    def __call__(self, service: str, body: Buffer, timeout_seconds: float, longest_answer: int) -> Awaitable[Buffer]:
        """Return the answer; raises `LinkUnavailable`."""
        ...


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listed(_Value):
    """A corpus that can be fetched.

    Attributes:
        site: who publishes it.
        corpus: its name.
        sha256: of its signed manifest.
    """

    site: Name
    corpus: Name
    sha256: Hash


class CorpusList(_Value):
    """What can be fetched.

    Attributes:
        corpora: every one.
        heard: of each site whose corpora these are, when it last said itself what it publishes, Unix time in seconds;
            None if it did not since the coordinator was started. Empty where a site lists its own.
    """

    corpora: Annotated[tuple[Listed, ...], Field(max_length=MAX_SITES * MAX_CORPORA)]
    heard: Annotated[dict[Name, Annotated[int, Field(ge=0, le=2**40)] | None], Field(max_length=MAX_SITES)]


class _Wanted(_Value):
    site: Name
    corpus: Name
    part: Hash | None


def corpora_service(listed: Callable[[], CorpusList], store: CorpusStore) -> Service:
    """Return the service that lists corpora and hands out their manifests and parts.

    Args:
        listed: what may be fetched now; nothing else is handed out.
        store: where it is.
    """

    async def answer(question: bytes) -> bytes:
        return await asyncio.to_thread(_answer, question, listed, store)

    return service_of(answer, longest_question=_MAX_QUESTION_BYTES)


def _answer(question: bytes, listed: Callable[[], CorpusList], store: CorpusStore) -> bytes:
    there = listed()
    if not question:
        return canonical_bytes(there)
    wanted = _Wanted.model_validate_json(question)
    address = (wanted.site, wanted.corpus)
    found = None
    if address in {(each.site, each.corpus) for each in there.corpora}:
        found = store.part(address, wanted.part) if wanted.part else store.manifest(address)
    if found is None:
        raise LookupError  # the other end learns that it failed, and asks for the list again
    return found


def list_of(
    store: CorpusStore, heard: Mapping[str, int | None], leave_out: Callable[[Address], bool] = lambda _address: False
) -> CorpusList:
    """Return the list of what a folder holds whole.

    Args:
        store: the folder.
        heard: when each site was last asked.
        leave_out: says of which corpora nothing is to be known.
    """
    corpora = (
        Listed(site=address[0], corpus=address[1], sha256=held.sha256)
        for address, held in store.held().items()
        if not leave_out(address)
    )
    return CorpusList(corpora=tuple(corpora), heard=dict(heard))


async def fetch(
    ask: Ask, store: CorpusStore, takes: Callable[[str], bool], unwanted: Collection[Address] = ()
) -> tuple[CorpusList, dict[Address, FedHealthError]]:
    """Bring a folder up to date with what the other end lists.

    Args:
        ask: asks the other end.
        store: the folder; what is no longer listed is dropped from it, unless of a site that nobody has heard.
        takes: says of which sites corpora are taken from this end; others are refused, and not dropped.
        unwanted: corpora that are to be as if nobody listed them.

    Returns:
        The list, and of each corpus that could not be taken in, or not to its end, why.

    Raises:
        LinkUnavailable: the other end does not answer, or with what is no list.
        OSError, CorpusRefused: the folder cannot be written or read.
    """
    listed = _read_list(await ask(CORPORA, b"", _ASK_SECONDS, MAX_LIST_BYTES))
    named = {(each.site, each.corpus): each.sha256 for each in listed.corpora if takes(each.site)}
    wanted = {address: sha256 for address, sha256 in named.items() if address not in unwanted}
    problems: dict[Address, FedHealthError] = {
        (each.site, each.corpus): CorpusRefused(f"a corpus of site '{each.site}' is not taken from here")
        for each in listed.corpora
        if not takes(each.site)
    }
    known = {address: held.sha256 for address, held in {**store.held(), **store.arriving()}.items()}
    for address, sha256 in wanted.items():
        try:
            if known.get(address) != sha256:
                await _fetch_manifest(ask, store, address)
            await _fetch_parts(ask, store, address)
        except (CorpusRefused, IdentityInvalid, LinkUnavailable) as error:
            problems[address] = error
    unheard = {site for site, heard in listed.heard.items() if heard is None}
    await asyncio.to_thread(store.drop_but, wanted.keys(), lambda site: takes(site) and site not in unheard)
    return listed, problems


async def _fetch_manifest(ask: Ask, store: CorpusStore, address: Address) -> None:
    data = await _asked(ask, address, None, MAX_MANIFEST_BYTES)
    await asyncio.to_thread(store.accept, data, address)


async def _fetch_parts(ask: Ask, store: CorpusStore, address: Address) -> None:
    for part in await asyncio.to_thread(store.missing, address):
        data = await _asked(ask, address, part.sha256, part.bytes)
        await asyncio.to_thread(store.put, address, part, data)


async def _asked(ask: Ask, address: Address, part: str | None, longest: int) -> bytes:
    await asyncio.sleep(PACE_SECONDS)
    wanted = _Wanted(site=address[0], corpus=address[1], part=part)
    return bytes(await ask(CORPORA, canonical_bytes(wanted), _ASK_SECONDS, longest))


def _read_list(data: Buffer) -> CorpusList:
    try:
        return CorpusList.model_validate_json(bytes(data))
    except ValidationError as error:
        raise LinkUnavailable(
            "what the other end lists as corpora is no list",
            next_step="Use the same version of fedhealth at both ends.",
        ) from error
