"""`fedhealth count`: have the other hospitals count patients; what leaves is shown, and confirmed, before it does."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedhealth.cli.output import agreed, answer, remark, say, say_lines
from fedhealth.cli.site_arguments import State

if TYPE_CHECKING:
    from fedhealth.link.counts import CountAnswer
    from fedhealth.search.concepts import Terminology
    from fedhealth.study.count_query import CountQuery
    from fedhealth.study.search_study import SearchStudy


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

    from fedhealth.canonical import canonical_bytes
    from fedhealth.errors import ConfigInvalid, FederationFailed
    from fedhealth.search.concepts import Terminology
    from fedhealth.secret_file import PUBLIC_MODE, create_file, read_file
    from fedhealth.signing import load_signing_key
    from fedhealth.site.askers import read_certificate
    from fedhealth.site.count_port import ask_elsewhere
    from fedhealth.site.state import SiteState
    from fedhealth.study.coded_cohort import CodedCohort, cohort_toml
    from fedhealth.study.count_query import ages_of, count_query, quarter_of, sign_query
    from fedhealth.study.signature import SignedSearch, open_signed

    signed = open_signed(read_file(study))
    if not isinstance(signed, SignedSearch):
        raise ConfigInvalid(f"{study} is no search study", next_step="Give the one that the hospitals approved.")
    if save is not None and save.exists():
        raise ConfigInvalid(f"{save} exists already", next_step="Choose another file with --save. Nothing left.")
    quarter = quarter_of(time.time_ns() // 10**6)
    query = count_query(quarter, tuple(having), tuple(without or ()), ages_of(ages), sex)
    asking = sign_query(
        signed.study.digest, query, signed.study.purpose_class, read_certificate(certificate), load_signing_key(key)
    )
    say("what leaves this hospital:")
    say_lines(f"  {line}" for line in _leaving(query, signed.study))
    say_lines(_meanings(query, Terminology.at_hand(SiteState(state).index)))
    if not yes and not agreed("Let it leave?"):
        say("nothing left")
        raise typer.Exit(ConfigInvalid.exit_code)
    port, latest = SiteState(state).counts_socket, time.monotonic() + wait
    found = ask_elsewhere(port, canonical_bytes(asking))
    while BUSY in found.absent.values() and time.monotonic() < latest:
        time.sleep(_PAUSE_SECONDS)
        found = ask_elsewhere(port, canonical_bytes(asking))
    if found.refused:
        raise FederationFailed("the coordinator asked nobody", got=found.refused, next_step="Nothing was charged.")
    answer({"query": query.model_dump(mode="json"), **_figures(found, signed.study)})
    say_lines(_lines(found, signed.study))
    if save is not None:
        most = signed.study.counts.most_codes_of_a_patient
        cohort = cohort_toml(CodedCohort(query=query, most_codes_of_a_patient=most))
        create_file(save, cohort.encode(), PUBLIC_MODE)
        remark(f"wrote {save}; a study of these patients: fedhealth study new NAME --cohort {save}", wrote=str(save))


def _leaving(query: "CountQuery", study: "SearchStudy") -> Iterator[str]:
    from fedhealth.study.coded_cohort import query_words

    yield from (f"{name:<9} {value}" for name, value in query_words(query))
    yield f"for       {study.purpose_class}, under study '{study.name}' ({study.digest[:12]})"
    yield "and your public key with your role and your hospital's name; nothing else"


def _meanings(query: "CountQuery", terms: "Terminology | None") -> Iterator[str]:
    """Say what each code means, so that nobody pays for a slip; nothing where no terminology is at hand."""
    unknown = "is in no terminology here: nobody may have it, and to count that costs as much"
    for code in (*query.all_of, *query.none_of):
        if terms is not None:
            name = terms.meaning(code, "en")
            yield from textwrap.wrap(f"{code} {unknown if name is None else f'is {name}'}", 80, subsequent_indent="  ")


def _figures(found: "CountAnswer", study: "SearchStudy") -> dict[str, object]:
    from fedhealth.search.foresight import half_width_of_count

    counted = [each for each in found.counts.values() if each is not None]
    return {
        "counts": found.counts,
        "absent": found.absent,
        "half_width": half_width_of_count(study.counts.epsilon),
        "fewer_than": study.counts.least_shown,
        "total": sum(counted) if counted else None,
        "total_half_width": half_width_of_count(study.counts.epsilon, len(counted)) if counted else None,
    }


def _lines(found: "CountAnswer", study: "SearchStudy") -> Iterator[str]:
    from fedhealth.search.foresight import half_width_of_count

    width, shown = half_width_of_count(study.counts.epsilon), [each for each in found.counts.values() if each]
    for site, count in sorted(found.counts.items()):
        yield f"{site}: " + (
            f"fewer than {study.counts.least_shown}" if count is None else f"{count} +-{width} patients"
        )
    for site, code in sorted(found.absent.items()):
        yield f"{site}: no answer ({code})"
    if BUSY in found.absent.values():
        yield "Busy: at work for a study, or paused. Asking again costs nothing: --wait 60."
    if len(shown) > 1:
        yield f"together: {sum(shown)} +-{half_width_of_count(study.counts.epsilon, len(shown))} patients"
    yield "Each hospital blurred its own count, so that no patient can be told from it; the"
    yield 'truth is within +- in 19 of 20. "Fewer" is said of the blurred count.'
