"""The steps of whatever a site may approve: of a study that is run once, and of a search study, which is asked."""

from collections.abc import Mapping

from fedhealth.learning.plan import Step, envelope_of, plan_study
from fedhealth.policy.site_file import DataSet
from fedhealth.privacy.accountant import AnyBudget, AnyCost
from fedhealth.privacy.release import Cohort, Digest, StepName
from fedhealth.records.split import sides_of
from fedhealth.search.counting import CountStep, envelope_of_search
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy

AnyStep = Step | CountStep


def steps_of(study: Study | SearchStudy) -> Mapping[StepName, AnyStep]:
    """Return the steps of a study, in the order they run in.

    Raises:
        ConfigInvalid: as `plan_study`.
    """
    if isinstance(study, SearchStudy):
        return {"count": CountStep(study)}
    return plan_study(study)


def price_of(study: Study | SearchStudy, budget: AnyBudget) -> dict[Cohort, AnyCost]:
    """Return the most a study may ever cost each side of a data set.

    Raises:
        ConfigInvalid: it has no price there.
    """
    return envelope_of_search(study, budget) if isinstance(study, SearchStudy) else envelope_of(study, budget)


def sides_asked(study: Study | SearchStudy, data_set: DataSet, split_key: bytes) -> Digest | None:
    """Return the commitment to who stands on which side; None of a search study, which charges everybody alike."""
    if isinstance(study, SearchStudy):
        return None
    fraction = study.evaluation.held_out_fraction
    return sides_of(split_key, data_set.patient_column, fraction, data_set.split_column)


def delta_of_study(study: Study | SearchStudy) -> float:
    """Return the delta at which a study's epsilon is stated."""
    return study.delta if isinstance(study, SearchStudy) else study.privacy.delta


def releases_of(step: AnyStep) -> int:
    """Return how often a step may leave at most, in the life of its study."""
    return step.study.counts.most if isinstance(step, CountStep) else step.rounds


def numbers_of(step: AnyStep) -> int:
    """Return how many whole numbers one release of a step has, of 8 bytes each."""
    return step.mechanism.cells if isinstance(step, CountStep) else step.mechanism.dimension
