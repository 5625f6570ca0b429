"""`fedhealth count`: have the other hospitals count patients; what leaves is shown, and confirmed, before it does."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedhealth.cli.output import agreed, answer, remark, say, say_lines
from fedhealth.cli.site_arguments import State

if TYPE_CHECKING:
    from fedhealth.link.counts import CountAnswer
    from fedhealth.search.concepts import Terminology
    from fedhealth.site.asking import CountFigures
    from fedhealth.study.count_query import CountQuery


BUSY = "busy"
"""The code of a hospital that may answer later."""
_PAUSE_SECONDS = 1.0


def count(
    having: Annotated[
        list[str], typer.Option("--having", help="A code they have, such as icd10:G20 or atc:N04BA. Repeatable.")
    ],
    study: Annotated[Path, typer.Option(help="The signed search study.")],
    key: Annotated[Path, typer.Option(help="Your signing key: fedhealth study keygen.")],
    certificate: Annotated[Path, typer.Option(help="Your hospital's word for you: fedhealth site vouch.")],
    state: State,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="A code that they do not have. Repeatable.")
    ] = None,
    ages: Annotated[str, typer.Option(help='In whole bands of 5 years, the end excluded, such as "60-80".')] = "",
    sex: Annotated[Literal["female", "male"] | None, typer.Option(help="Of one sex alone.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write who was counted, as a cohort for: fedhealth study new --cohort.")
    ] = None,
    wait: Annotated[
        int, typer.Option(help="Ask again for so many seconds while a hospital is busy; it costs nothing.", min=0)
    ] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Let it leave without asking.")] = False,
) -> None:
    """Have the other hospitals count patients with codes, of an age and a sex. Free text never leaves.

    Each count is blurred by its hospital and charged to all its patients, once a quarter, whoever asks.

    Example: fedhealth count --having icd10:G20 --study s.signed --key my.key --certificate my.asker --state state
    """
    import time

    from fedhealth.errors import ConfigInvalid
    from fedhealth.search.concepts import Terminology
    from fedhealth.secret_file import PUBLIC_MODE, create_file
    from fedhealth.site.asking import figures_of, have_counted, load_asker, words_of_leaving
    from fedhealth.site.state import SiteState
    from fedhealth.study.coded_cohort import CodedCohort, cohort_toml
    from fedhealth.study.count_query import ages_of

    asker = load_asker(study, key, certificate)
    if save is not None and save.exists():
        raise ConfigInvalid(f"{save} exists already", next_step="Choose another file with --save. Nothing left.")
    now = time.time_ns() // 10**6
    prepared = asker.prepare(tuple(having), tuple(without or ()), ages_of(ages), sex, now)
    query = prepared.query
    say("what leaves this hospital:")
    say_lines(f"  {line}" for line in words_of_leaving(query, asker.study))
    say_lines(_meanings(query, Terminology.at_hand(SiteState(state).index)))
    if not yes and not agreed("Let it leave?"):
        say("nothing left")
        raise typer.Exit(ConfigInvalid.exit_code)
    port, latest = SiteState(state).counts_socket, time.monotonic() + wait
    found = have_counted(port, prepared)
    while BUSY in found.absent.values() and time.monotonic() < latest:
        time.sleep(_PAUSE_SECONDS)
        found = have_counted(port, prepared)
    figures = figures_of(found, asker.study)
    answer({"query": query.model_dump(mode="json"), "counts": found.counts, "absent": found.absent, **asdict(figures)})
    say_lines(_lines(found, figures))
    if save is not None:
        most = asker.study.counts.most_codes_of_a_patient
        cohort = cohort_toml(CodedCohort(query=query, most_codes_of_a_patient=most))
        create_file(save, cohort.encode(), PUBLIC_MODE)
        remark(f"wrote {save}; a study of these patients: fedhealth study new NAME --cohort {save}", wrote=str(save))


def _meanings(query: "CountQuery", terms: "Terminology | None") -> Iterator[str]:
    """Say what each code means, so that nobody pays for a slip; nothing where no terminology is at hand."""
    unknown = "is in no terminology here: nobody may have it, and to count that costs as much"
    for code in (*query.all_of, *query.none_of):
        if terms is not None:
            name = terms.meaning(code, "en")
            yield from textwrap.wrap(f"{code} {unknown if name is None else f'is {name}'}", 80, subsequent_indent="  ")


def _lines(found: "CountAnswer", figures: "CountFigures") -> Iterator[str]:
    for site, count in sorted(found.counts.items()):
        yield f"{site}: " + (
            f"fewer than {figures.fewer_than}" if count is None else f"{count} +-{figures.half_width} patients"
        )
    for site, code in sorted(found.absent.items()):
        yield f"{site}: no answer ({code})"
    if BUSY in found.absent.values():
        yield "Busy: at work for a study, or paused. Asking again costs nothing: --wait 60."
    if sum(count is not None for count in found.counts.values()) > 1:
        yield f"together: {figures.total} +-{figures.total_half_width} patients"
    yield "Each hospital blurred its own count, so that no patient can be told from it; the"
    yield 'truth is within +- in 19 of 20. "Fewer" is said of the blurred count.'
