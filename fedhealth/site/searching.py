"""A clinician's questions to the site's own index, without who withdrew the consent; and whose articles are in it.

A patient who is forgotten is out of the index soon; until then, what is found of the patient is dropped here, by the
marks as the index keeps them at that moment.
"""

import time
from collections import Counter
from dataclasses import replace

from fedhealth.search.answering import Answer, SearchEngine
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import DocumentFilter
from fedhealth.search.index import SearchIndex
from fedhealth.search.query import SearchRequest
from fedhealth.site.indexed_corpora import KeptCorpora
from fedhealth.site.search_accesses import Access, write_access
from fedhealth.site.search_consent import kept_consent
from fedhealth.site.search_domain import SearchDomain


class Searching:
    """Answers questions, one after the other; what the first one loaded, the next one has.

    Args:
        domain: entered.
        index: opened in it.
    """

    def __init__(self, domain: SearchDomain, index: SearchIndex) -> None:
        self._domain, self._corpora = domain, KeptCorpora(domain.index)
        encoder = None
        if index.status().encoder is not None:
            from fedhealth.search.encoder import Encoder  # seconds: only where there are vectors to compare with

            encoder = Encoder()
        self._engine = SearchEngine(index, Terminology.load(domain.index), encoder)

    def search(self, query: str, only: DocumentFilter, *, include_negated: bool, limit: int) -> Answer:
        """Return what the index says to a question, after it was written down who is shown it.

        Args:
            query: in words.
            only: which documents it is about.
            include_negated: also what a text denies, supposes, or says of the family.
            limit: most hits, from 1.

        Raises:
            ConfigInvalid: the question cannot be answered as it is.
            DataUnusable: the index cannot be read, or the log written.
        """
        found = self._engine.search(SearchRequest(query, only, include_negated=include_negated, limit=limit))
        consent = self._domain.consent.updated(kept_consent(self._domain.index))
        corpora = self._corpora.now()
        hits = tuple(
            replace(hit, publishers=corpora.publishers_of(hit.document))
            for hit in found.hits
            if not consent.excludes(hit.document.patient)
        )
        patients = {hit.document.patient.strip() for hit in hits if hit.document.patient is not None}
        access = Access(
            at=time.time_ns() // 10**6,
            by=self._domain.asker,
            kinds=Counter(hit.document.kind for hit in hits),
            patients=tuple(sorted(map(consent.marks.of, patients))),
            question=query,
        )
        write_access(self._domain.index, access, consent)
        searched = replace(found.searched, corpora=corpora.corpora, missing=corpora.missing, heard=corpora.heard_at())
        return replace(found, hits=hits, searched=searched)
