"""`fedhealth coordinator articles list | remove`: the corpora that a coordinator hands on."""

from typing import Annotated

import typer

from fedhealth.cli.coordinator import Home
from fedhealth.cli.output import answer, printable, say

app = typer.Typer(help="The open articles that sites publish, and that are handed on to all.", no_args_is_help=True)


@app.command(name="list")
def list_(home: Home) -> None:
    """Say which corpora sites publish, how large they are, and which were removed.

    Example: fedhealth coordinator articles list --home state
    """
    from fedhealth.coordinator.corpus_desk import held_corpora, removed_corpora
    from fedhealth.coordinator.home import CoordinatorHome

    folder = CoordinatorHome(home).corpora
    corpora = []
    for held in held_corpora(folder).values():
        manifest = held.manifest
        corpora.append(
            {
                "site": manifest.site,
                "corpus": manifest.corpus,
                "licence": manifest.licence,
                "published": manifest.published.isoformat(timespec="seconds"),
                "articles": manifest.articles,
                "bytes": manifest.bytes,
                "withdrawn": manifest.withdrawn,
            }
        )
        state = "withdrawn" if manifest.withdrawn else printable(manifest.licence)
        say(f"{manifest.corpus}@{manifest.site}: {manifest.articles:,} articles, {manifest.bytes:,} bytes, {state}")
    removed = sorted(removed_corpora(folder))
    answer({"corpora": corpora, "removed": [{"site": site, "corpus": corpus} for site, corpus in removed]})
    for site, corpus in removed:
        say(f"{corpus}@{site}: removed, and not handed on")
    if not corpora and not removed:
        say("no site publishes articles")


@app.command()
def remove(
    site: Annotated[str, typer.Argument(metavar="SITE", help="Who publishes it.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Its name.")],
    home: Home,
    undo: Annotated[bool, typer.Option("--undo", help="Fetch it from its site again, and hand it on.")] = False,
) -> None:
    """Delete a corpus, so that all sites drop it at their next fetch. The coordinator may be running.

    Example: fedhealth coordinator articles remove hungary cardiology --home state
    """
    from fedhealth.coordinator.corpus_desk import remove_corpus
    from fedhealth.coordinator.home import CoordinatorHome

    remove_corpus(CoordinatorHome(home).corpora, (site, corpus), removed=not undo)
    said = "handed on again" if undo else "removed: sites drop it at their next fetch"
    say(f"{corpus}@{site} is {said}", site=site, corpus=corpus, removed=not undo)
