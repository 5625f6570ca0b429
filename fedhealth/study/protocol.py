"""The study protocol: one TOML file that says everything a site must know before it takes part.

A protocol is data, never code: features with public ranges or categories, a model and a task from closed lists,
training and privacy parameters. Ranges come from the protocol and never from patients, so that scaling reveals
nothing. Its canonical bytes give the study's digest; whoever changes one byte asks for another study.

What it costs is in `fedhealth.learning.plan`; whether a site allows it, in `fedhealth.policy`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.config import read_toml
from fedhealth.study.augmentation import MAX_TRANSFORMS, Transform
from fedhealth.study.coded_cohort import CodedCohort
from fedhealth.study.diagnosis_endpoints import NumberEndpoint
from fedhealth.study.endpoints import BinaryEndpoint, CategoryEndpoint, Endpoint
from fedhealth.study.evaluation import Evaluation
from fedhealth.study.features import CategoryFeature, Condition, Feature
from fedhealth.study.head import StudyHead, digest_of_study
from fedhealth.study.images import MAX_PIXELS, ImageFeature, Pixels
from fedhealth.study.modalities import MAX_MODALITIES, Modality, check_modalities
from fedhealth.study.part import Part, StudyName
from fedhealth.study.strategies import FedAvg, Strategy
from fedhealth.study.survival_endpoint import SurvivalEndpoint
from fedhealth.study.trial_endpoint import TrialEndpoint

MAX_INPUTS = 100_000
"""So many weights, as doubles, fit one frame of the gate; pixels are not counted, as most models share weights among
them."""

MAX_TRIAL_COLUMNS = 100
"""Covariates and visits of a trial: its release has a sum for each pair of them."""

Task = Literal["diagnosis", "survival", "efficacy"]
"""What kind of question a study asks; a site's policy names those that may be asked."""


class Model(Part):
    """What is fitted.

    Attributes:
        kind: its name in the table of `fedhealth.learning.models`, which says what endpoints it is for.
        hidden: widths of the hidden layers, or channels of the levels, from the inputs on; for the kinds that have any.
        modalities: which features belong together, and are missing together; for the kinds that fuse some. Where there
            are none, a study's digest knows nothing of them.
        compare_sides: of a network that sees an image: its last layer is also given how far the left side differs from
            the right.
    """

    kind: StudyName
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=10)] = ()
    modalities: Annotated[
        tuple[Modality, ...], Field(max_length=MAX_MODALITIES, exclude_if=lambda modalities: not modalities)
    ] = ()
    compare_sides: Annotated[bool, Field(exclude_if=lambda compares: not compares)] = False


class Training(Part):
    """How the model is trained; one step a round, every step charged.

    Attributes:
        rounds: number of rounds, each one release per site.
        spare_rounds: how many more releases a site may give where a round's were lost, because the coordinator's
            state was. Their noise is priced from the start, whether they are used or not.
        sampling_rate: the probability with which each patient, alone and by secret coins, takes part in a round; 1 is
            full batch, which is often best for small hospitals. Less is for budgets counted in Renyi divergence.
        learning_rate: step length on the clipped mean gradient.
        l2_clip_norm: the most one patient's gradient may measure.
        strategy: how the coordinator combines the sites' steps.
        augment: further images of each image, for models that see one. A record's gradient is the mean over all of
            them, before the patient's is clipped, so that they cost no privacy.
        weight_averaging: the published model is the mean of those after the last so many rounds; 1 is the last alone.
    """

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    spare_rounds: Annotated[int, Field(ge=0, le=100)] = 2
    sampling_rate: Annotated[float, Field(ge=1e-4, le=1)] = 1.0
    learning_rate: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    l2_clip_norm: Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
    strategy: Strategy = FedAvg(kind="fedavg")
    augment: Annotated[
        tuple[Transform, ...], Field(max_length=MAX_TRANSFORMS, exclude_if=lambda transforms: not transforms)
    ] = ()
    weight_averaging: Annotated[int, Field(ge=1, le=10_000, exclude_if=lambda rounds: rounds == 1)] = 1

    @model_validator(mode="after")
    def _as_many_rounds_as_are_averaged(self) -> Self:
        if self.weight_averaging > self.rounds:
            raise ValueError(f"weight_averaging is {self.weight_averaging}, wanted at most the {self.rounds} rounds")
        return self

    @model_validator(mode="after")
    def _images_differ(self) -> Self:
        if len(set(self.augment)) != len(self.augment):
            raise ValueError("augment repeats a transform")
        return self


class Privacy(Part):
    """What the study may cost a patient, at most.

    Attributes:
        unit: who is protected: one patient, with all records.
        delta: for the training and the evaluation, each on its own patients.
        training_epsilon: for all rounds together, for a patient in training; None where nothing is trained.
        evaluation_epsilon: for all figures together, for a held-out patient.
    """

    unit: Literal["patient"]
    delta: Annotated[float, Field(ge=1e-12, le=0.01)]
    training_epsilon: Annotated[float, Field(gt=0, le=20, allow_inf_nan=False)] | None = None
    evaluation_epsilon: Annotated[float, Field(gt=0, le=20, allow_inf_nan=False)]


class Sites(Part):
    """Who must take part, and how long anybody is waited for.

    Attributes:
        required: sites without which no round counts.
        quorum: number of sites without which no round counts; None is all that the federation has.
        wait_seconds: how long a site that is away, busy or slow is waited for in a round, before the round goes on
            without it, if it may. The site may come back in a later round; the result says who was in which.
    """

    required: tuple[StudyName, ...] = ()
    quorum: Annotated[int, Field(ge=1, le=10_000)] | None = None
    wait_seconds: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] = 60

    @model_validator(mode="after")
    def _required_differ(self) -> Self:
        if len(set(self.required)) != len(self.required):
            raise ValueError("required names a site twice")
        return self


class Study(StudyHead):
    """The protocol of a study that is run once: something is trained or estimated, and judged.

    Attributes:
        task: what kind of question it is, from a closed list that policies refer to.
        max_records_per_patient: of each patient only the first so many records are read. The public duration of a
            reply is measured with so many records for every patient, so that nobody's records decide it.
        include: conditions that a record must meet, all of them; others are not in the study.
        cohort: whose records are looked at, by codes in each site's index; None for every patient of the data set. A
            study's digest knows nothing of it where there is none.
        training: None for an estimate that every patient takes part in once, by one release of each site.
    """

    task: Task
    max_records_per_patient: Annotated[int, Field(ge=1, le=1000)]
    sites: Sites = Sites()
    include: Annotated[tuple[Condition, ...], Field(max_length=100)] = ()
    cohort: Annotated[CodedCohort | None, Field(exclude_if=lambda cohort: cohort is None)] = None
    features: Annotated[tuple[Feature, ...], Field(min_length=1, max_length=1000)]
    endpoint: Endpoint
    model: Model
    training: Training | None = None
    evaluation: Evaluation
    privacy: Privacy

    @model_validator(mode="after")
    def _columns_are_distinct(self) -> Self:
        columns = [feature.column for feature in self.features]
        repeated = sorted({column for column in columns if columns.count(column) > 1})
        if repeated:
            raise ValueError(f"features name a column twice: {', '.join(repeated)}")
        if outcomes := sorted(set(self.endpoint.columns) & set(columns)):
            raise ValueError(f"the endpoint '{', '.join(outcomes)}' is among the features")
        if restated := sorted(set(self.endpoint.restated_by) & set(columns)):
            raise ValueError(f"features that restate the endpoint '{self.endpoint.column}': {', '.join(restated)}")
        if looked_at := sorted(set(self.endpoint.columns) & {condition.column for condition in self.include}):
            raise ValueError(f"include looks at the endpoint '{', '.join(looked_at)}', which would choose the answer")
        if self.dimension - self.pixels > MAX_INPUTS:
            raise ValueError(f"features become {self.dimension} model inputs, wanted at most {MAX_INPUTS}")
        if self.pixels > MAX_PIXELS:
            raise ValueError(f"features have {self.pixels} pixels, wanted at most {MAX_PIXELS}")
        return self

    @model_validator(mode="after")
    def _modalities_divide_the_features(self) -> Self:
        if self.model.modalities:
            check_modalities(self.model.modalities, self.features, self.include)
        return self

    @model_validator(mode="after")
    def _subgroups_are_category_features(self) -> Self:
        categories = {feature.column for feature in self.features if isinstance(feature, CategoryFeature)}
        columns = self.evaluation.subgroups.columns if self.evaluation.subgroups else ()
        if others := sorted(set(columns) - categories):
            raise ValueError(f"subgroups name what is no category feature: {', '.join(others)}")
        if len(set(columns)) != len(columns):
            raise ValueError("subgroups name a column twice")
        return self

    @model_validator(mode="after")
    def _training_has_its_price(self) -> Self:
        if (self.training is None) != (self.privacy.training_epsilon is None):
            raise ValueError("[training] and privacy.training_epsilon go together: give both or neither")
        if (self.training is None) != (self.evaluation.held_out_fraction == 1):
            raise ValueError(
                f"held_out_fraction is {self.evaluation.held_out_fraction:g}, wanted 1 where nothing is trained, and "
                "less than 1 where something is"
            )
        return self

    @model_validator(mode="after")
    def _lines_fit_the_endpoint(self) -> Self:
        parts = ("table", "scores", "subgroups")  # a signed protocol names all of them, with their defaults
        named = {part for part in parts if getattr(self.evaluation, part) != Evaluation.model_fields[part].default}
        if named and not isinstance(self.endpoint, BinaryEndpoint | CategoryEndpoint):
            raise ValueError(
                f"[evaluation] names {', '.join(sorted(named))}, which are for endpoints that are yes or no; this one "
                f"is of kind '{self.endpoint.kind}'"
            )
        if self.evaluation.errors is not None and not isinstance(self.endpoint, NumberEndpoint):
            raise ValueError(
                f"[evaluation.errors] is for endpoints of kind 'number'; this one is of kind '{self.endpoint.kind}'"
            )
        if (self.evaluation.survival is not None) != isinstance(self.endpoint, SurvivalEndpoint):
            raise ValueError("[evaluation.survival] and an endpoint of kind 'survival' go together: give both")
        return self

    @model_validator(mode="after")
    def _a_patient_is_followed_once(self) -> Self:
        if isinstance(self.endpoint, SurvivalEndpoint) and self.max_records_per_patient != 1:
            raise ValueError(
                f"max_records_per_patient is {self.max_records_per_patient}, wanted 1: an endpoint of kind 'survival' "
                "is one time and one ending a patient"
            )
        return self

    @model_validator(mode="after")
    def _a_trial_is_one_row_a_patient(self) -> Self:
        if isinstance(self.endpoint, TrialEndpoint):
            if self.max_records_per_patient != 1:
                raise ValueError(
                    f"max_records_per_patient is {self.max_records_per_patient}, wanted 1: an endpoint of kind 'trial' "
                    "has one row a patient, with a column a visit"
                )
            if self.training is not None:
                raise ValueError("a trial is estimated, not trained: leave out [training] and training_epsilon")
            if (columns := self.dimension + len(self.endpoint.outcomes)) > MAX_TRIAL_COLUMNS:
                raise ValueError(
                    f"inputs and visits are {columns} columns, wanted at most {MAX_TRIAL_COLUMNS}: a trial's release "
                    "has a sum for each pair of them"
                )
        return self

    @model_validator(mode="after")
    def _quorum_holds_the_required(self) -> Self:
        if self.sites.quorum is not None and self.sites.quorum < len(self.sites.required):
            raise ValueError(
                f"quorum is {self.sites.quorum}, wanted at least the {len(self.sites.required)} sites that are required"
            )
        return self

    @model_validator(mode="after")
    def _quorum_is_enough_to_combine(self) -> Self:
        quorum, strategy = self.sites.quorum, self.strategy
        if quorum is not None and quorum < (least := strategy.least_sites(quorum)):
            raise ValueError(f"quorum is {quorum}, wanted at least the {least} sites that '{strategy.kind}' needs")
        return self

    @property
    def dimension(self) -> int:
        """Number of model inputs: of all features, and then one for the presence of each modality."""
        return sum(feature.width for feature in self.features) + len(self.model.modalities)

    @property
    def pixels(self) -> int:
        """How many of the inputs are pixels of images."""
        images = (feature for feature in self.features if isinstance(feature, ImageFeature))
        return sum(feature.inputs.width(feature.shape) for feature in images if isinstance(feature.inputs, Pixels))

    @property
    def rounds(self) -> int:
        """Number of rounds of training; 0 where nothing is trained."""
        return 0 if self.training is None else self.training.rounds

    @property
    def spare_rounds(self) -> int:
        """Number of spare rounds of training."""
        return 0 if self.training is None else self.training.spare_rounds

    @property
    def strategy(self) -> Strategy:
        """How the sites' steps are combined; the average where nothing is trained."""
        return FedAvg(kind="fedavg") if self.training is None else self.training.strategy

    @property
    def digest(self) -> str:
        """The study's name to every machine: digest of its canonical bytes."""
        return digest_of_study(self)


def load_study(path: Path) -> Study:
    """Read a protocol file.

    Raises:
        ConfigInvalid: missing, not TOML, or not a protocol; says where and what was wanted.
    """
    return read_toml(path, Study, "study protocol")
