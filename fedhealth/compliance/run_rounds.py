"""Whether what an evidence says of rounds, absences and times can have been. Torch-free."""

from datetime import datetime

from fedhealth.coordinator.evidence import Evidence, SiteEvidence
from fedhealth.coordinator.participation import Span
from fedhealth.errors import RunAltered


def check_rounds(evidence: Evidence, admitted: int, evaluations: int) -> str:
    """Return what was found good of a run's rounds.

    Args:
        evidence: of the run.
        admitted: training rounds that a site's gate admits, spare ones included.
        evaluations: evaluations that it admits.

    Raises:
        RunAltered: rounds, absences or times contradict each other or the plan.
    """
    named, spans = evidence.participation.sites, evidence.participation.rounds
    if list(named) != sorted(set(named)) or not {site.site for site in evidence.sites} <= set(named):
        raise RunAltered("the sites that are said to have taken part are not those of the evidence")
    left_out = evidence.participation.too_small
    if list(left_out) != sorted(set(left_out)) or set(left_out) & set(named):
        raise RunAltered("the sites that are said to be too small are not others than those that took part")
    if left_out and not evidence.simulation:
        raise RunAltered("sites are said to be too small for the study; in a real run they cannot approve it")
    before = 0
    for span in spans:
        if not before < span.first <= span.last <= admitted:
            raise RunAltered("the rounds that count are not in order, or more than the plan has")
        before = span.last
    completed = sum(span.last - span.first + 1 for span in spans)
    if completed != evidence.rounds_completed or completed > evidence.rounds_planned:
        raise RunAltered(f"{evidence.rounds_completed} rounds are said to count, {completed} are listed")
    if not {site for span in spans for site in span.absent} <= set(named):
        raise RunAltered("a site is said to have been absent that is not in the study")
    for site in evidence.sites:
        _check_site(site, spans, admitted)
        if not 0 <= sum(line.releases for line in site.spent if line.purpose == "evaluation") <= evaluations:
            raise RunAltered(f"site '{site.site}' is said to have charged evaluations that its gate does not admit")
    for name in set(named) - {site.site for site in evidence.sites}:
        if any(name not in span.absent for span in spans):
            raise RunAltered(f"site '{name}' is said to have taken part, and nothing else is said of it")
    silent = set(named) - {site.site for site in evidence.sites if site.noisy_counts}
    if set(evidence.participation.evaluation_absent) != silent:
        raise RunAltered("the sites that did not evaluate the model are not those that have no counts")
    if not _in_order(evidence.started, evidence.finished):
        raise RunAltered("it cannot have begun and ended at these times")
    partial = "; PARTIAL: not every site was in every round" if evidence.partial else ""
    return f"{completed} of {evidence.rounds_planned} complete{partial}"


def _check_site(site: SiteEvidence, spans: tuple[Span, ...], admitted: int) -> None:
    given = set(site.rounds)
    if list(site.rounds) != sorted(given) or (given and not 1 <= min(given) <= max(given) <= admitted):
        raise RunAltered(f"site '{site.site}' is said to have given a release in rounds that cannot be")
    if not 0 <= site.unconfirmed <= admitted - len(given):
        raise RunAltered(f"site '{site.site}' is said to have lost more answers than its gate could give")
    for span in spans:
        counted = set(range(span.first, span.last + 1))
        if (counted & given) if site.site in span.absent else (counted - given):
            raise RunAltered(f"site '{site.site}' is said to have been there and away in one round")


def _in_order(started: str, finished: str) -> bool:
    try:
        return datetime.fromisoformat(started) <= datetime.fromisoformat(finished)
    except (ValueError, TypeError):
        return False
