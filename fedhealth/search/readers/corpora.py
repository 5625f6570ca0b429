"""Articles of a published corpus, the hospital's own or another's: of no patient, and of a stranger's making.

Invariants: a corpus whose articles are not in the order of their keys, each once, is damaged: read to its end or not,
it would be another one each time.
"""

from fedhealth.corpora.corpus import Manifest, articles_in
from fedhealth.corpora.store import CorpusRefused, CorpusStore, Held, parts_in
from fedhealth.errors import DataUnusable
from fedhealth.search.documents import Document
from fedhealth.search.readers.problem import Found, Problem, checked, cleaned, made, one_line


def source_of(manifest: Manifest) -> str:
    """Return what the index calls a corpus: a name that no source of a search file can have."""
    return f"{manifest.corpus}@{manifest.site}"


def read_corpus(store: CorpusStore, held: Held) -> Found:
    """Yield the articles of a corpus that is whole; where it is damaged, a problem of the source, and no more.

    Args:
        store: where it is.
        held: it.
    """
    source, last, count = source_of(held.manifest), "", 0
    try:
        for part in parts_in(store, held):
            for article in articles_in(part):
                if article.key <= last:
                    raise DataUnusable("a corpus holds articles that are not in order, or one of them twice")
                last, count = article.key, count + 1
                text = cleaned(article.text)
                if (why := checked(text)) is not None:
                    yield Problem(source, one_line(article.key), why)
                    continue
                yield made(
                    lambda article=article, text=text: Document(  # type: ignore[misc]  # bound at once
                        key=one_line(article.key),
                        patient=None,
                        kind="article",
                        title=one_line(article.title),
                        text=text,
                        date=article.date,
                        language=article.language,
                        source=source,
                    ),
                    source,
                    one_line(article.key),
                )
    except (CorpusRefused, DataUnusable) as error:
        yield Problem(source, "", error.what, "source")
        return
    if count != held.manifest.articles:
        yield Problem(
            source, "", f"its publisher says {held.manifest.articles:,} articles, and it holds {count:,}", "noted"
        )
