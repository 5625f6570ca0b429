"""`fedhealth site forget | unforget | studies-of`: what one patient may ask of the hospital; nothing of it leaves."""

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from fedhealth.cli.output import answer, ask, say
from fedhealth.cli.site_arguments import Folder, State, made_state

Patient = Annotated[
    str | None,
    typer.Argument(
        metavar="PATIENT",
        help="As the patient column names the patient. Leave it out to be asked for it, or to give it on standard "
        "input, so that it stands in no shell history and no list of processes.",
        show_default=False,
    ),
]


def forget(folder: Folder, state: State, patient: Patient = None) -> None:
    """Keep a patient who withdraws the consent out of everything computed from now on. The gate may be running.

    Training and evaluation, every study on the data set, records now and later, also in the middle of a study. A
    running gate is quiet for a moment, which does not tell whose consent it was. What left before cannot be called back
    (`fedhealth site studies-of` lists it). Nothing else of this crosses the border. Where the site has an index for its
    own searches, the patient's documents are taken out of it, bytes included, and are indexed no more.

    Example: fedhealth site forget sites/hungary --state state/hungary
    """
    from fedhealth.site.consent import forget_patient
    from fedhealth.site.search_erasure import erase_forgotten
    from fedhealth.site.state import SiteState

    site_state = SiteState(made_state(state))
    records, at_once = forget_patient(folder, site_state, _patient(patient))
    found = "the data cannot be read now" if records is None else f"{records} records of this patient are in the data"
    when = "from now on" if at_once else "from the next start of the gate on"
    say(f"forgotten {when}; {found}", forgotten=True, at_once=at_once, records=records)
    if not records:
        say("records that come later under the same name stay out as well; check how the column writes it")
    erased = erase_forgotten(site_state)
    if erased is not None:
        say(f"{erased:,} documents were taken out of the index", documents_erased=erased)


def unforget(folder: Folder, state: State, patient: Patient = None) -> None:
    """Let a patient who gave the consent again back in. The gate may be running.

    Example: fedhealth site unforget sites/hungary --state state/hungary
    """
    from fedhealth.site.consent import renew_consent
    from fedhealth.site.state import SiteState

    at_once = renew_consent(folder, SiteState(made_state(state)), _patient(patient))
    when = "from now on" if at_once else "from the next start of the gate on"
    say(f"the patient is in again {when}", forgotten=False, at_once=at_once)


def studies_of(
    folder: Folder,
    state: State,
    patient: Patient = None,
) -> None:
    """List the studies whose releases used a patient. The gate may be running.

    At most: a patient whose endpoint was missing is listed and added nothing, and so is one whom a sampled round may
    have drawn. What is printed stays at the hospital.

    Example: fedhealth site studies-of sites/hungary --state state/hungary
    """
    import dataclasses

    from fedhealth.site.consent import studies_of as find
    from fedhealth.site.state import SiteState

    uses = find(folder, SiteState(made_state(state)), _patient(patient))
    answer([dataclasses.asdict(use) for use in uses])
    for use in uses:
        last = datetime.fromtimestamp(use.last_charged_at / 1000, UTC)
        say(f"{use.title or 'a study whose signed file is gone'} ({use.study[:12]})")
        say(f"  approved by {use.approved_by}; the last of these releases on {last:%Y-%m-%d}")
        say(f"  {use.used} releases used the patient")
        if use.unknown:
            say(f"  of {use.unknown} more it cannot be said: the record of who was in the data is missing")
    if not uses:
        say("no release of any study used a patient of this name; check how the column writes it")


def _patient(given: str | None) -> str:
    """Return the patient that was named, or asked for, or on the first line of standard input."""
    if given is None and sys.stdin.isatty():
        given = ask("Patient", "the patient on standard input")
    return sys.stdin.readline() if given is None else given
