"""Articles of a published corpus, the hospital's own or another's: of no patient, and of a stranger's making."""

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
    source = source_of(held.manifest)
    try:
        for part in parts_in(store, held):
            for article in articles_in(part):
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
