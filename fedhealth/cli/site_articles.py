"""`fedhealth site articles publish | list | withdraw | trust`: open articles, of this site and of others."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.output import agreed, answer, printable, remark, say, working
from fedhealth.cli.site_arguments import Folder, State, made_state
from fedhealth.errors import ConfigInvalid

if TYPE_CHECKING:
    from fedhealth.corpora.corpus import Manifest
    from fedhealth.site.named_patients import NamedPatients
    from fedhealth.site.publishing import Draft

app = typer.Typer(
    help="Open articles: publish some for all hospitals, and see what the others publish.", no_args_is_help=True
)

_NAME, _KEY = "[a-z0-9][a-z0-9-]{0,62}", "[0-9a-f]{64}"
_MOST_TITLES = 10

CorpusName = Annotated[str, typer.Argument(metavar="CORPUS", help="Its name, such as cardiology.")]
Yes = Annotated[bool, typer.Option("--yes", help="Agree in advance.")]


@app.command()
def publish(
    folder: Folder,
    articles: Annotated[
        Path, typer.Argument(metavar="ARTICLES", help="A .jsonl file, one article a line, or a folder of them.")
    ],
    state: State,
    name: Annotated[str, typer.Option(help="What the corpus is called, such as cardiology.")],
    licence: Annotated[str, typer.Option(help="Under which everybody may read it, such as CC-BY-4.0.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(help="KEY of an article that holds a patient's number by chance: you have looked. Repeatable."),
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show all titles, and publish nothing.")] = False,
    yes: Yes = False,
) -> None:
    """Publish articles for every hospital of the federation, in place of the former version of this corpus.

    Each line is a JSON object with `pmid`, `_id` or `id`, `title`, `abstract` or `text`, and `year`; nothing else of it
    leaves. It is shown first. Refused are a file in the site's folder or state, a line with a patient or without a
    text, and an article that holds a patient's identifier. Who has read it keeps it, also after you withdraw it.

    Example: fedhealth site articles publish sites/hungary open.jsonl --name cardiology --licence CC-BY-4.0 \
--state state/hungary
    """
    from fedhealth.policy.site_file import load_site_file
    from fedhealth.search.search_file import Articles
    from fedhealth.site.publishing import draft_corpus, patients_named
    from fedhealth.site.publishing import publish as publish_draft
    from fedhealth.site.state import SiteState

    _check_name(name)
    site, there = load_site_file(folder), SiteState(made_state(state))
    source = Articles(name=name, path=articles, reader="articles")
    with working("reading articles"):
        draft = draft_corpus(articles, source, licence, site, (folder, state))
    with working("looking for patients in them"):
        named = patients_named(draft, folder, there, allow or [])
    _say_draft(draft, named, site.id, every_title=preview)
    if preview:
        answer({"published": False})
        return
    if not (yes or agreed("Publish it?")):
        raise typer.Abort
    manifest = publish_draft(draft, site.id, there)
    say(f"published: {_line_of(manifest)}", published=True, version=manifest.version, key=manifest.key)
    remark("the other hospitals fetch it within half an hour, while this site runs")


@app.command(name="list")
def list_(state: State) -> None:
    """Say what this site publishes, what it has of other hospitals, how old that is, and what is missing.

    Example: fedhealth site articles list --state state/hungary
    """
    from fedhealth.corpora.store import CorpusStore
    from fedhealth.site.fetched_corpora import fetch_status
    from fedhealth.site.state import SiteState

    there = SiteState(made_state(state))
    own, fetched = CorpusStore(there.published), CorpusStore(there.fetched)
    status, keys = fetch_status(there.fetched), fetched.keys()
    published = [held.manifest for held in own.held().values()]
    here = [held.manifest for held in fetched.held().values()]
    arriving = [held.manifest for held in fetched.arriving().values()]
    answer(
        {
            "published": [_document_of(each) for each in published],
            "fetched": [_document_of(each) for each in here],
            "arriving": [_document_of(each) for each in arriving],
            "last_fetch": status and status.model_dump(),
            "keys": keys,
        }
    )
    for title, manifests in (("published here", published), ("of other hospitals", here), ("arriving", arriving)):
        if manifests:
            say(f"{title}:")
        for manifest in manifests:
            say(f"  {_line_of(manifest)}")
    if not published and not here:
        say("no articles yet")
    if status is None:
        say("nothing was fetched yet; fedhealth site start fetches every ten minutes")
        return
    say(f"fetched {_when(status.at)}")
    for site, heard in status.heard.items():
        if heard is None or status.at - heard > 86_400:
            say(f"  {site} is away since {_when(heard)}" if heard else f"  {site} is away")
    for problem in status.problems:
        say(f"  not taken: '{problem.corpus}' of {problem.site}: {printable(problem.why)}")


@app.command()
def withdraw(folder: Folder, corpus: CorpusName, state: State, yes: Yes = False) -> None:
    """Withdraw a corpus: the other hospitals drop it at their next fetch, and from their indexes after.

    Example: fedhealth site articles withdraw sites/hungary cardiology --state state/hungary
    """
    from fedhealth.policy.site_file import load_site_file
    from fedhealth.site.publishing import withdraw_corpus
    from fedhealth.site.state import SiteState

    there = SiteState(made_state(state))
    if not (yes or agreed(f"Withdraw '{corpus}' from all hospitals?")):
        raise typer.Abort
    manifest = withdraw_corpus(corpus, load_site_file(folder).id, there)
    say(f"withdrawn: {corpus}", withdrawn=corpus, version=manifest.version)


@app.command()
def trust(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The other hospital's id.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its new public key, 64 hexadecimal digits.")],
    state: State,
) -> None:
    """Believe another key of a hospital's articles, which it tells you by phone; until then the first one is believed.

    What the former key signed is dropped.

    Example: fedhealth site articles trust budapest KEY --state state/hungary
    """
    from fedhealth.site.fetched_corpora import believe_key
    from fedhealth.site.state import SiteState

    _check_name(site)
    if not re.fullmatch(_KEY, key):
        raise ConfigInvalid(
            "this is no public key", got=f"{len(key)} characters", wanted="64 hexadecimal digits in lower case"
        )
    believe_key(SiteState(made_state(state)), site, key)
    say(f"articles of {site} are believed with key {key[:16]}...", site=site, key=key)


def _check_name(name: str) -> None:
    if not re.fullmatch(_NAME, name):
        raise ConfigInvalid(
            "this is no name", got=repr(name[:80]), wanted="lower-case letters, digits and hyphens, at most 63"
        )


def _say_draft(draft: "Draft", named: "NamedPatients", site: str, *, every_title: bool) -> None:
    titles = [printable(each.title or each.key) for each in draft.articles]
    answer(
        {
            "site": site,
            "corpus": draft.name,
            "licence": draft.licence,
            "articles": len(draft.articles),
            "bytes": draft.bytes,
            "parts": len(draft.parts),
            "titles": titles,
            "identifiers_looked_for": named.looked_for,
            "identifiers_too_short": named.too_short,
        }
    )
    say("what everybody in the federation can read from then on:")
    say(f"  corpus    {draft.name}, published by {site}")
    say(f"  licence   {printable(draft.licence)}")
    say(f"  size      {len(draft.articles):,} articles, {draft.bytes:,} bytes")
    say("  of each   its key, title, text, date and language; no other field")
    shown = titles if every_title else titles[:_MOST_TITLES]
    for title in shown:
        say(f"  - {title}")
    if len(titles) > len(shown):
        say(f"  - ... and {len(titles) - len(shown):,} more: --preview shows all")
    if named.looked_for:
        say(f"  looked for {named.looked_for:,} identifiers of patients; none is in it but where you said so")
    if named.too_short:
        whose = f"{named.too_short:,} identifiers of patients" if named.looked_for else "no identifier of a patient"
        how = "not looked for" if named.looked_for else "looked for"
        remark(f"{how}: {whose}, because they are as short as ordinary numbers; see for yourself that none is in it")


def _document_of(manifest: "Manifest") -> dict[str, object]:
    return {
        "site": manifest.site,
        "corpus": manifest.corpus,
        "licence": manifest.licence,
        "published": manifest.published.isoformat(timespec="seconds"),
        "articles": manifest.articles,
        "bytes": manifest.bytes,
        "withdrawn": manifest.withdrawn,
        "key": manifest.key,
    }


def _line_of(manifest: "Manifest") -> str:
    day = f"{manifest.published:%Y-%m-%d}"
    if manifest.withdrawn:
        return f"{manifest.corpus}@{manifest.site}: withdrawn on {day}"
    size = f"{manifest.articles:,} articles, {manifest.bytes / 2**20:,.1f} MiB"
    return f"{manifest.corpus}@{manifest.site}: {size}, {printable(manifest.licence)}, {day}"


def _when(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
