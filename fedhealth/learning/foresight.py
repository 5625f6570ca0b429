"""Everything about a study that is knowable before it runs: what it costs and what its noise does. Torch-free.

No patient is looked at: all of it follows from the protocol and from what sites publish of themselves. The figures say
what to expect at a hospital of a given size, for planning; what holds is what the gates charge.

Noise of training: a release carries noise of standard deviation s on each coordinate of the sum of clipped gradients,
whose norm one patient can move by the clip c. Of n training patients the mean gradient therefore carries s / n, and
one patient pulls at it with at most c / n; after T rounds of step length r a weight has moved by noise of standard
deviation r s sqrt(T) / n, and over k sites, weighted by their declared patients, by r s sqrt(T k) / (n_1 + ... + n_k).

Interval of the evaluation: half of that of the headline figure; what is assumed of the model, its module in
`fedhealth.learning.outcomes` says.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.evaluation import lines_of, noise_of
from fedhealth.learning.open_texts import open_texts
from fedhealth.learning.outcomes import classes
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.learning.plan import envelope_of, plan_study
from fedhealth.policy.limits import SiteLimits
from fedhealth.privacy.accountant import AnyBudget, open_budget
from fedhealth.privacy.events import GaussianEvent, plan_of
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.release import Cohort
from fedhealth.study.diagnosis_endpoints import ClassesEndpoint
from fedhealth.study.features import NumberFeature
from fedhealth.study.protocol import Study, Training
from fedhealth.study.strategies import FedAdagrad, FedAdam, FedAvgM, FedYogi

SIZES = (50, 100, 200, 500, 1000, 5000, 20_000)
"""Declared patients of the hospitals that are shown, beside those that are known."""


@dataclass(frozen=True)
class CostLine:
    """What one part of a study costs a patient.

    Attributes:
        part: "training", or "evaluation: " and the name of a line.
        patients: the side that pays.
        releases: at most so many, spare rounds included.
        epsilon: of all of them at the study's delta, as a plan fixed in advance; a line of the evaluation as if alone.
        noise: standard deviation, in clipped patients of training or patients of a count.
    """

    part: str
    patients: Cohort
    releases: int
    epsilon: float
    noise: float


@dataclass(frozen=True)
class SizeLine:
    """What the noise does at a hospital of one size.

    Attributes:
        site: its id, "" for an example.
        declared_patients: its public round figure.
        update_noise: noise of a round's mean gradient, in parts of the clip; None where nothing is trained.
        weight_noise: what all rounds' noise moves a weight of a model trained there alone; None likewise, and
            where the strategy rescales it.
        half_width: of the hospital's own headline figure; None where nothing can be said at all.
        withheld: it is wider than the protocol publishes.
    """

    site: str
    declared_patients: int
    update_noise: float | None
    weight_noise: float | None
    half_width: float | None
    withheld: bool


@dataclass(frozen=True)
class SiteVerdict:
    """What a site's published limits say to the study.

    Attributes:
        site: its id.
        share: the part of the data set's whole budget that the study may use there, of the dearer side; None where the
            budget has no price for it.
        refusals: rules that forbid it, in words; none means that nothing published stands against it.
    """

    site: str
    share: float | None
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class Foresight:
    """All of it.

    Attributes:
        digest: of the study.
        costs: by part.
        sizes: known sites first, then examples.
        sites: verdicts, in the order of the sites' ids.
        federation_weight_noise: of the model of all known sites together; None without any, likewise, and where the
            strategy is robust.
        headline: name of the figure whose half-width is stated.
        federation_half_width: of it, over all known sites; None without any, or where nothing can be said.
        warnings: what a person should look at.
    """

    digest: str
    costs: tuple[CostLine, ...]
    sizes: tuple[SizeLine, ...]
    sites: tuple[SiteVerdict, ...]
    federation_weight_noise: float | None
    headline: str
    federation_half_width: float | None
    warnings: tuple[str, ...]


def foresee(study: Study, limits: Sequence[SiteLimits] = ()) -> Foresight:
    """Return what is knowable of a study before it runs.

    Args:
        study: the protocol.
        limits: what sites publish; may be empty.

    Raises:
        ConfigInvalid: no mechanism of ours gives so little epsilon over so many rounds or weights.
    """
    declared = [site.declared_patients for site in limits]
    return Foresight(
        digest=study.digest,
        costs=tuple(_costs(study)),
        sizes=tuple(
            [_size_line(study, site.site, site.declared_patients) for site in limits]
            + [_size_line(study, "", patients) for patients in SIZES]
        ),
        sites=tuple(_verdict(study, site) for site in limits),
        federation_weight_noise=_weight_noise(study, declared) if declared else None,
        headline=outcome_of(study).HEADLINE,
        federation_half_width=_half_width(study, sum(declared), len(declared)) if declared else None,
        warnings=tuple(_warnings(study, limits)),
    )


def _costs(study: Study) -> Iterable[CostLine]:
    plan, delta = plan_study(study), study.privacy.delta
    evaluation = plan["evaluate"]
    if (training := plan.get("train")) is not None:
        yield CostLine(
            "training",
            training.cohort,
            training.rounds,
            informative_epsilon(training.plan(), delta).epsilon,
            training.mechanism.standard_deviation / training.mechanism.l2_clip_norm,
        )
    noise = noise_of(study, evaluation.mechanism.standard_deviation)
    for line in lines_of(study):
        # Alone, its patients would measure the root of the share: the same noise is so much more of that.
        event = evaluation.event.model_dump()
        alone = GaussianEvent.model_validate(event | {"noise_multiplier": event["noise_multiplier"] / line.weight})
        epsilon = informative_epsilon(plan_of([(alone, 1)]), delta).epsilon
        yield CostLine(f"evaluation: {line.name}", evaluation.cohort, 1, epsilon, noise[line.name])


def _size_line(study: Study, site: str, declared: int) -> SizeLine:
    half, update_noise = _half_width(study, declared, 1), None
    if study.training is not None:
        mechanism, patients = plan_study(study)["train"].mechanism, _trained_on(study, study.training, declared)
        update_noise = mechanism.standard_deviation / mechanism.l2_clip_norm / patients
    return SizeLine(
        site=site,
        declared_patients=declared,
        update_noise=update_noise,
        weight_noise=_weight_noise(study, [declared]),
        half_width=half,
        withheld=half is None or half > study.evaluation.too_wide,
    )


def _trained_on(study: Study, training: Training, declared: int) -> float:
    return training.sampling_rate * (1 - study.evaluation.held_out_fraction) * declared


def _weight_noise(study: Study, declared: Sequence[int]) -> float | None:
    training = study.training
    if training is None or (rounds := _rounds_of_noise(training)) is None:
        return None
    if len(declared) > 1 and study.strategy.least_sites(1) > 1:
        return None  # what a robust strategy leaves of it depends on the hospitals
    noise = plan_study(study)["train"].mechanism.standard_deviation * math.sqrt(len(declared))
    return training.learning_rate * noise * rounds / _trained_on(study, training, sum(declared))


def _rounds_of_noise(training: Training) -> float | None:
    """Return how many times the noise of one round all rounds together bring; None where a strategy rescales it."""
    strategy = training.strategy
    if isinstance(strategy, FedAdam | FedYogi | FedAdagrad):
        return None
    momentum = strategy.server_momentum if isinstance(strategy, FedAvgM) else 0.0
    # Momentum takes a round's noise again, less each time, in all rounds that are left.
    return math.sqrt(sum(((1 - momentum**left) / (1 - momentum)) ** 2 for left in range(1, training.rounds + 1)))


def _half_width(study: Study, declared: int, sites: int) -> float | None:
    noise = noise_of(study, plan_study(study)["evaluate"].mechanism.standard_deviation)
    return outcome_of(study).half_width(study, noise, study.evaluation.held_out_fraction * declared, sites)


def _verdict(study: Study, site: SiteLimits) -> SiteVerdict:
    work = site.budget.expected_work
    budget: AnyBudget = open_budget(site.budget.epsilon, site.budget.delta, work.sampling_rate, work.rounds)
    refusals: list[str] = []
    share: float | None = None
    try:
        share = max(budget.share(cost) for cost in envelope_of(study, budget).values())
        asked = max(budget.epsilon_of(cost) for cost in envelope_of(study, budget).values())
    except ConfigInvalid as error:
        refusals.append(error.got)
    else:
        if share > 1:
            refusals.append(f"costs {share:.0%} of the whole budget")
        if asked > site.max_epsilon_a_study:
            refusals.append(
                f"asks epsilon {asked:.2f} at delta {site.budget.delta:g}; a study may ask {site.max_epsilon_a_study:g}"
            )
    if study.data_set != site.data_set:
        refusals.append(f"asks for data set '{study.data_set}'; the site has '{site.data_set}'")
    if study.task not in site.tasks:
        refusals.append(f"task '{study.task}' is not among {list(site.tasks)}")
    if study.purpose_class not in site.purposes:
        refusals.append(f"purpose '{study.purpose_class}' is not among {list(site.purposes)}")
    if site.declared_patients < study.min_declared_patients:
        refusals.append(f"wants {study.min_declared_patients} declared patients; the site has {site.declared_patients}")
    return SiteVerdict(site.site, share, tuple(refusals))


def _warnings(study: Study, limits: Sequence[SiteLimits]) -> Iterable[str]:
    if left_open := open_texts(study):
        yield f"left open: {', '.join(left_open)}. The study can be simulated, not signed."
    known = {site.site for site in limits}
    if limits and (strangers := sorted(set(study.sites.required) - known)):
        yield f"sites that are required and published no limits: {', '.join(strangers)}"
    if limits and study.sites.quorum is not None and study.sites.quorum > len(limits):
        yield f"the quorum is {study.sites.quorum}, and limits of {len(limits)} sites are known"
    least = study.strategy.least_sites(max(1, len(limits)))
    if limits and least > len(limits):
        yield f"'{study.strategy.kind}' needs {least} sites, and limits of {len(limits)} sites are known"
    if least > 1 and study.sites.quorum is None:
        yield "no quorum: one hospital whose release is left out, or that is away, stops the study"
    for site in limits:
        if study.privacy.delta * site.declared_patients > 1:
            yield f"delta {study.privacy.delta:g} is more than 1 / {site.declared_patients}, as many as {site.site} has"
    if study.training is not None and study.model.kind == "linear-regression":
        # The curvature of half the squared error is at most the largest squared length of an input, the bias with it:
        # 1, and for each feature 1 for its value and 1 for its indicator, of which a category has one at a time.
        curvature = 1 + len(study.features)
        curvature += sum(isinstance(each, NumberFeature) and each.missing_indicator for each in study.features)
        if study.training.learning_rate > 2 / curvature:
            yield (
                f"learning_rate {study.training.learning_rate:g} may overshoot in a linear regression, round by round; "
                f"up to {2 / curvature:.2g} it cannot"
            )
    if limits:
        yield from _withheld(study, sum(site.declared_patients for site in limits), len(limits))
    if study.training is not None and study.training.spare_rounds == 0:
        yield "no spare rounds: a coordinator that loses its state cannot finish the study"


def _withheld(study: Study, declared: int, sites: int) -> Iterable[str]:
    """Yield what is not to be expected even over all known sites."""
    width = _half_width(study, declared, sites)
    if width is None or width > study.evaluation.too_wide:
        found = "the noise leaves nothing to say" if width is None else f"+-{width:.2f}"
        yield f"{outcome_of(study).HEADLINE}: expected to be withheld even over all known sites ({found})"
    elif isinstance(study.endpoint, ClassesEndpoint):
        noise = noise_of(study, plan_study(study)["evaluate"].mechanism.standard_deviation)
        width = classes.sensitivity_half_width(study, noise, study.evaluation.held_out_fraction * declared, sites)
        if width is None or width > study.evaluation.too_wide:
            yield (
                f"{len(study.endpoint.classes)} classes are many for this noise: were all as frequent, what is said of "
                "one is expected to be withheld even over all known sites. Put some together"
            )
