"""A clinician's questions to the site's own index, without who withdrew the consent; and whose articles are in it.

A patient who is forgotten is out of the index soon; until then, what is found of the patient is dropped here, by the
marks as the index keeps them at that moment.
"""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fedhealth.search.answering import Answer, SearchEngine
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Document, DocumentFilter, Language
from fedhealth.search.index import SearchIndex
from fedhealth.search.query import SearchRequest, read_question
from fedhealth.site.indexed_corpora import KeptCorpora
from fedhealth.site.search_accesses import Access, write_access
from fedhealth.site.search_consent import Consent, kept_consent
from fedhealth.site.search_domain import SearchDomain
from fedhealth.study.count_query import CODE_PATTERN, MAX_CODES

MOST_COUNTED_CHARACTERS = 200
"""A longer question may be a patient's letter: no count is proposed from it."""


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
        self._index, self._terms = index, Terminology.load(domain.index)
        self._engine = SearchEngine(index, self._terms, encoder)

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
        self._write_down([hit.document for hit in hits], consent, query)
        searched = replace(found.searched, corpora=corpora.corpora, missing=corpora.missing, heard=corpora.heard_at())
        return replace(found, hits=hits, searched=searched)

    def document(self, source: str, key: str) -> Document | None:
        """Return a document with its text, after it was written down; None if it is not, or no longer, to be found.

        Raises:
            DataUnusable: the index cannot be read, or the log written.
        """
        found = self._index.document(source, key)
        consent = self._domain.consent.updated(kept_consent(self._domain.index))
        if found is None or consent.excludes(found.patient):
            return None
        self._write_down([found], consent, None)
        return found

    def _write_down(self, shown: Sequence[Document], consent: Consent, question: str | None) -> None:
        patients = {document.patient.strip() for document in shown if document.patient is not None}
        access = Access(
            at=time.time_ns() // 10**6,
            by=self._domain.asker,
            kinds=Counter(document.kind for document in shown),
            patients=tuple(sorted(map(consent.marks.of, patients))),
            question=question,
        )
        write_access(self._domain.index, access, consent)

    def names(self, codes: Sequence[str], language: Language) -> dict[str, str]:
        """Return what codes such as "icd10:I50" mean; one that no classification has is left out."""
        return {code: name for code in codes if (name := self._terms.name(code, language))}

    def codes_for_a_count(self, query: str) -> tuple[tuple[str, bool], ...]:
        """Return the codes that a question names, at most `MAX_CODES`, and of each whether the question denies it.

        There are none for a question that holds an identifier, or is so long that it may be a letter: whoever has such
        patients counted elsewhere chooses the codes.
        """
        if len(query) > MOST_COUNTED_CHARACTERS:
            return ()
        question = read_question(query, self._terms)
        if question.identifiers:
            return ()
        named = [(code, False) for code in question.codes]
        named += [(each.found.concept, each.assertion == "negated") for each in question.concepts]
        fitting = [each for each in dict(named).items() if re.fullmatch(CODE_PATTERN, each[0])]
        return tuple(fitting[:MAX_CODES])
