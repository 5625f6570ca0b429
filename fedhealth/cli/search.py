"""`fedhealth search`: a clinician asks the own hospital's index; nothing of question or answer leaves the terminal."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from fedhealth.cli.output import answer, ask, console, remark, wants_json
from fedhealth.cli.search_text import document_of, lines_of
from fedhealth.cli.site_index import enter_domain
from fedhealth.errors import ConfigInvalid, DataUnusable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fedhealth.search.documents import DocumentFilter

_STATE = Path("/var/lib/fedhealth")
_WIDTH = 80

Query = Annotated[
    str | None,
    typer.Argument(
        metavar="[QUERY]",
        help="In words, French or English; codes and numbers too. Leave it out to be asked, again and again, or to "
        "give it on standard input, so that it stands in no shell history and no list of processes.",
        show_default=False,
    ),
]


def search(
    query: Query = None,
    state: Annotated[
        Path, typer.Option("--state", envvar="FEDHEALTH_STATE", readable=False, help="The site's state folder.")
    ] = _STATE,
    kind: Annotated[
        list[str] | None, typer.Option(help="report, letter, record, image-text, article; may be repeated.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="This day or later, such as 2024-05-31, 2024-05 or 2024.")] = None,
    until: Annotated[str | None, typer.Option(help="This day, month or year, or earlier.")] = None,
    age: Annotated[str | None, typer.Option(help="Of the patient then, in years: 65, 40-65, 65- or -17.")] = None,
    sex: Annotated[str | None, typer.Option(help="Of the patient: female or male.")] = None,
    code: Annotated[
        list[str] | None, typer.Option(help="ICD-10 or ATC, with all below it: I21, B01AC06; may be repeated.")
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Of this patient alone.")] = None,
    include_negated: Annotated[
        bool, typer.Option("--include-negated", help="Also what a text denies, supposes, or says of the family.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most documents to show.")] = 10,
) -> None:
    """Search the own hospital's records, reports and articles. What is asked and found stays on this terminal.

    Words find their forms, misspellings, translations and what is like them in meaning; "sans" and "without" ask for
    what a text denies. Each hit says why it is one, and each answer what was searched. Runs as the gate's user
    without a network, and waits while a gate computes. An aid to reading, no diagnosis.

    Example: fedhealth search embolie --since 2023 --kind report --state state/hungary
    """
    only = _filter(kind, since, until, age, sex, code, patient)
    domain = enter_domain(None, state, background=False)
    from fedhealth.site.search_index import open_index
    from fedhealth.site.searching import Searching

    with closing(open_index(domain.index, domain.consent)[0]) as index:
        searching = Searching(domain, index)
        for asked in _questions(query):
            began = time.monotonic()
            try:
                found = searching.search(asked, only, include_negated=include_negated, limit=limit)
            except (ConfigInvalid, DataUnusable) as error:
                if query is not None or not sys.stdin.isatty():
                    raise
                remark(f"error: {error}")
                continue
            seconds = time.monotonic() - began
            answer(document_of(found) | {"seconds": seconds})
            page = console()
            for paragraph in lines_of(found, seconds, styled=page.is_terminal):
                page.print(*_set_in(paragraph, page), highlight=False, sep="\n")


def _set_in(paragraph: "Text", page: "Console") -> "Iterable[Text]":
    """Return a paragraph as lines of the terminal, or of 80 columns, all of them set in as its first one is."""
    width = min(page.width, _WIDTH)
    indent = len(paragraph.plain) - len(paragraph.plain.lstrip())
    lines = paragraph[indent:].wrap(page, width - indent) if paragraph.plain else [paragraph]
    for line in lines:
        line.rstrip()
        line.pad_left(indent)
    return lines


def _questions(query: str | None) -> Iterator[str]:
    """Yield what is asked: once, or from a terminal until nothing more is."""
    if query is not None:
        yield query
    elif not sys.stdin.isatty() or wants_json():
        yield sys.stdin.readline() if not sys.stdin.isatty() else ask("Search", "QUERY")
    else:
        while asked := ask("Search (Enter alone ends)", "QUERY", "").strip():
            yield asked


def _filter(
    kinds: list[str] | None,
    since: str | None,
    until: str | None,
    age: str | None,
    sex: str | None,
    codes: list[str] | None,
    patient: str | None,
) -> "DocumentFilter":
    """Return which documents are asked for, or say which option cannot be understood."""
    from fedhealth.search.documents import DocumentFilter, Kind
    from fedhealth.search.readers.facts import sex_in
    from fedhealth.search.typed_filter import first_day, last_day, typed_ages, typed_code

    ages = None if age is None else typed_ages(age)
    if age is not None and ages is None:
        raise ConfigInvalid(f"--age {age} is no age", wanted="such as 65, 40-65, 65- or -17")
    known = {code: typed_code(code) for code in codes or []}
    if wrong := [code for code, found in known.items() if found is None]:
        raise ConfigInvalid(
            f"--code {wrong[0]} is no code", wanted="ICD-10 as I21.9, or ATC as B01AC06; atc:B01 for a group of ATC"
        )
    if wrong := [kind for kind in kinds or [] if kind not in get_args(Kind)]:
        raise ConfigInvalid(f"--kind {wrong[0]} is not known", wanted=", ".join(get_args(Kind)))
    if sex is not None and sex_in(sex) is None:
        raise ConfigInvalid(f"--sex {sex} is not known", wanted="female or male")
    days = (("--since", since, first_day), ("--until", until, last_day))
    for option, text, day in days:
        if text is not None and day(text) is None:
            raise ConfigInvalid(f"{option} {text} is no date", wanted="such as 2024-05-31, 2024-05 or 2024")
    try:
        return DocumentFilter(
            kinds=frozenset(kinds or []),  # type: ignore[arg-type]  # looked at above
            since=first_day(since) if since else None,
            until=last_day(until) if until else None,
            youngest=ages.youngest if ages else None,
            oldest=ages.oldest if ages else None,
            sex=sex_in(sex) if sex else None,
            codes=frozenset(found for found in known.values() if found),
            patient=patient.strip() if patient else None,
        )
    except DataUnusable as error:
        raise ConfigInvalid(error.what, wanted=error.wanted, next_step="See: fedhealth search --help") from None
