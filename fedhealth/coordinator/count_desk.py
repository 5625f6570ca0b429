"""Where the coordinator takes a site's signed queries to the other sites' gates, and brings their counts back.

A search study is offered to the sites like any other, from a folder of the coordinator's home, for as long as its file
is there. It is never run: each query is one release of each gate, asked of all sites at once. A count is not
acknowledged, so that a gate keeps it for whoever asks the same again.

A gate does one thing at a time. A count comes between two rounds of a study that is run, so that it waits for a round's
public reply at most; where that takes too long for an asker, the site is named as busy, which is public too.

What is checked here is only that a site asks in its own name; whether its asker may is for each gate to say.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedhealth.coordinator.asking import AWAY, Asker, NoRelease
from fedhealth.errors import IdentityInvalid, RefusalCode
from fedhealth.link.counts import CountAnswer, pack_answer
from fedhealth.link.services import Service, service_of
from fedhealth.privacy.release import Digest, ReleaseIdentity, input_digest
from fedhealth.search.counting import read_count
from fedhealth.secret_file import PUBLIC_MODE, create_file, read_plain_file
from fedhealth.study.count_query import MAX_SIGNED_QUERY_BYTES, SignedQuery, open_signed_query
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES, SignedSearch, open_signed

_LOG = logging.getLogger(__name__)
SITE_SECONDS = 10.0
"""How long one site is waited for; an answer without it says so."""
_PAUSE_SECONDS = 0.05
_SUFFIX = ".signed"


class CountDesk:
    """Answers sites' queries.

    Args:
        folder: where the search studies are that are offered.
        asker: asks the gates.
        sites: returns the sites that joined.
    """

    def __init__(self, folder: Path, asker: Asker, sites: Callable[[], tuple[str, ...]]) -> None:
        self._folder, self._asker, self._sites = folder, asker, sites

    def service_for(self, site: str) -> Service:
        """Return what a site may ask."""
        return service_of(partial(self._answer, site), longest_question=MAX_SIGNED_QUERY_BYTES)

    async def _answer(self, asking: str, data: bytes) -> bytes:
        try:
            signed = open_signed_query(data)
        except IdentityInvalid:
            return pack_answer(CountAnswer(refused="the query is malformed, or not signed by its asker"))
        offered = self._offered(signed.study)
        if signed.asker.site != asking:
            return pack_answer(CountAnswer(refused="the query is signed in the name of another site"))
        if offered is None:
            return pack_answer(CountAnswer(refused="the coordinator offers no such search study"))
        others = [site for site in self._sites() if site != asking]
        said = await asyncio.gather(*(self._ask(site, signed, data, offered.study) for site in others))
        answered = dict(zip(others, said, strict=True))
        return pack_answer(
            CountAnswer(
                counts={site: count for site, count in answered.items() if not isinstance(count, str)},
                absent={site: code for site, code in answered.items() if isinstance(code, str)},
            )
        )

    def _offered(self, study: Digest) -> SignedSearch | None:
        """Return a search study if it is offered; the file of another, be it damaged, is not looked at."""
        try:
            found = open_signed(read_plain_file(self._folder / f"{study}{_SUFFIX}", MAX_SIGNED_STUDY_BYTES))
        except FileNotFoundError:
            return None
        except (IdentityInvalid, OSError) as error:
            _LOG.error("an offered search study cannot be used: %(error)s", {"error": error})
            return None
        return found if isinstance(found, SignedSearch) and found.study.digest == study else None

    async def _ask(self, site: str, signed: SignedQuery, data: bytes, study: SearchStudy) -> int | str | None:
        """Return a site's count, None for "fewer", or the code of why there is none."""
        identity = ReleaseIdentity(
            site=site,
            study=signed.study,
            step="count",
            round=1,
            input_digest=input_digest(signed.query.input_bytes),
        )
        code = AWAY
        try:
            async with asyncio.timeout(SITE_SECONDS):
                while True:
                    try:
                        return read_count(bytes(await self._asker.ask_count(identity, data)), study)
                    except NoRelease as refusal:
                        code = refusal.code
                        if code != RefusalCode.BUSY.value:
                            return code
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            return RefusalCode.BUSY.value if self._asker.is_at_work(site) else code
        except ValueError:
            _LOG.error("a site answered a query with what is no count")
            return AWAY


def offer_search(folder: Path, signed_study: bytes) -> SignedSearch:
    """Offer a search study to the sites from now on.

    Raises:
        IdentityInvalid: its signature does not hold, or it is a study of another kind.
    """
    signed = open_signed(signed_study)
    if not isinstance(signed, SignedSearch):
        raise IdentityInvalid(
            f"study '{signed.study.name}' is no search study",
            got=f"task '{signed.study.task}'",
            next_step="Studies that are run are submitted: fedhealth study submit --help.",
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{signed.study.digest}{_SUFFIX}"
    if not path.exists():
        create_file(path, signed_study, PUBLIC_MODE)
    return signed


def signed_searches(folder: Path) -> list[bytes]:
    """Return the signed bytes of the search studies that are offered."""
    return [read_plain_file(path, MAX_SIGNED_STUDY_BYTES) for path in sorted(folder.glob(f"*{_SUFFIX}"))]
