"""What `fedhealth audit budget` and `report` say to people of one site or of many, in lines of at most 80 columns."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fedhealth.cli.audit_text import shown, side_lines, wrapped
from fedhealth.compliance.times import time_text

if TYPE_CHECKING:
    from fedhealth.compliance.budget import SideUse
    from fedhealth.compliance.federation import SiteLedger, Unverified
    from fedhealth.compliance.register import Activity, Register, SiteRegister
    from fedhealth.compliance.totals import StudyTotal


def site_lines(ledger: "SiteLedger", sides: "Iterable[SideUse]", one: bool) -> Iterator[str]:
    """Say what one site's budgets were spent on."""
    yield f"{'' if one else '=== '}site '{ledger.site}': ledger intact, {len(ledger.history.ledger.entries)} entries"
    if ledger.exported is not None and not one:
        yield f"    exported {time_text(ledger.exported.at)} by {shown(ledger.exported.by)}"
    for side in sides:
        yield from side_lines(side)
    if not one:
        yield ""


def total_lines(totals: "Iterable[StudyTotal]", sites: int) -> Iterator[str]:
    """Say what each study has used over all sites."""
    yield f"=== over {sites} {'site' if sites == 1 else 'sites'}"
    for total in totals:
        yield f"\n{total.name or 'a study whose protocol is not here'} ({total.study[:12]})"
        yield f"  asked by key {total.researcher[:12]}"
        for site in total.sites:
            planned = "" if site.planned is None else f" of at most {site.planned}"
            yield f"  {site.site}{': withdrawn since' if site.withdrawn else ''}"
            first = f"{shown(site.first_by)}, then " if site.first_by else ""
            yield from wrapped(f"approved {time_text(site.at)} by {first}{shown(site.by)}", "    ", 2)
            yield f"    {_releases(site.charged)} charged{planned}; {site.share_of_cap:.1%} of the cap"
        planned = "" if total.planned is None else f" of at most {total.planned}"
        yield f"  all: {_releases(total.charged)} charged{planned}"
        yield f"    a patient of one site: epsilon {total.epsilon_one_site:.3f} at most;"
        yield f"    one whom all of them know: {total.epsilon_all_sites:.3f} at delta {total.delta_all_sites:g}"
    yield ""


def failed_lines(failed: "Iterable[Unverified]") -> Iterator[str]:
    """Name what is missing or not intact."""
    for each in failed:
        yield from wrapped(f"NOT COUNTED {each.name}: {each.error}", "", 2)


def register_lines(register: "Register") -> Iterator[str]:
    """Say what the register holds, activity by activity."""
    missing = len(register.not_counted)
    sites = f"{len(register.sites)} {'site' if len(register.sites) == 1 else 'sites'} verified"
    yield f"{sites}, {missing} NOT COUNTED (named below)" if missing else sites
    for site in register.sites:
        yield f"\n=== site '{site.site}': {site.ledger.head.size} entries, {_releases(site.ledger.releases)} charged"
        yield f"    root {site.ledger.head.root}"
        for activity in site.activities:
            yield from _activity_lines(activity)
        yield from _kept_lines(site)


def _activity_lines(activity: "Activity") -> Iterator[str]:
    text = activity.text
    yield ""
    if text is None:
        yield f"  study {activity.study}"
        yield "    its text is not at hand (--studies)"
    else:
        yield from wrapped(text.title, "  ")
        yield f"    {text.name} ({activity.study[:12]})"
        yield from wrapped(f"why       {text.purpose}", "    ", 10)
        yield from wrapped(f"ground    {text.legal_basis}", "    ", 10)
    name = f" ({shown(activity.researcher_name)})" if activity.researcher_name else ""
    yield f"    asked by  key {activity.researcher[:12]}{name}"
    if activity.first:
        yield f"    first     approved {time_text(activity.first[1])} by {shown(activity.first[0])}, and then"
    yield f"    approved  {time_text(activity.at)} by {shown(activity.by)}"
    if activity.withdrawn:
        yield f"    withdrawn {time_text(activity.withdrawn[1])} by {shown(activity.withdrawn[0])}"
    yield f"    data set  {activity.data_set}, about {activity.declared_patients} patients as declared"
    for side in activity.sides:
        use = side.use
        yield f"    {side.cohort} patients: {_releases(sum(step.charged for step in use.steps))} charged"
        yield f"      epsilon {use.epsilon_spent:.3f} of a cap of {side.epsilon_cap:g} at delta {side.delta:g};"
        yield f"      {use.share_of_cap:.1%} of the cap spent, {side.share_left:.1%} left for studies to come"


def _releases(number: int) -> str:
    return f"{number} release{'' if number == 1 else 's'}"


def _kept_lines(site: "SiteRegister") -> Iterator[str]:
    yield f"\n  {len(site.acts)} acts of people (audit acts); withdrawals of consent stay in the"
    yield "  local journal, to which each entry has a commitment of fixed size"
