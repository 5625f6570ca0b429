"""How the coordinator combines the sites' steps: the strategies that a protocol can name, and the sites each needs.

Each part names one strategy of Flower's and the settings that belong to it; `fedhealth.flower.strategies` makes it.
The first five average, weighted by `declared_patients`, so that one site that lies moves the model as far as it likes.
The others withstand a stated number of such sites. Each of them needs more sites than it withstands, also in a round
in which some are absent: below `least_sites` a round does not count.

FedProx is not among them. Its proximal term pulls a site's local steps back to the model that the round began with. A
round here is one gradient step, taken at that model, where the term's gradient is zero: it would be FedAvg under
another name. Several local steps would each be a release to pay for, so that a study buys more from as many rounds.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fedhealth.study.part import Part

ServerLearningRate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Tau = Annotated[float, Field(ge=1e-9, le=1)]


class _Average(Part):
    def least_sites(self, sites: int) -> int:
        """Return the fewest sites, of `sites` in all, whose releases may be combined: one is enough to average."""
        return 1


class FedAvg(_Average):
    """The average of the sites' models, weighted by declared patients (McMahan et al., 2017)."""

    kind: Literal["fedavg"]


class FedAvgM(_Average):
    """The same with momentum (Hsu et al., 2019).

    Attributes:
        server_momentum: the share of the last round's step that is taken again.
    """

    kind: Literal["fedavgm"]
    server_momentum: Annotated[float, Field(gt=0, lt=1)]


class FedAdam(_Average):
    """Adam on the average step (Reddi et al., 2021).

    Attributes:
        server_learning_rate: about how far a weight moves in a round, whatever the size of its gradient.
        beta_1: the share of the mean step that is kept each round.
        beta_2: the share of the mean squared step that is kept each round.
        tau: a step far below this counts as none; in the unit of a weight, after `training.learning_rate`.
    """

    kind: Literal["fedadam"]
    server_learning_rate: ServerLearningRate
    beta_1: Decay = 0.9
    beta_2: Decay = 0.99
    tau: Tau = 1e-3


class FedYogi(_Average):
    """Yogi on the average step, whose squared step changes more slowly than Adam's (Reddi et al., 2021).

    Attributes:
        server_learning_rate: about how far a weight moves in a round, whatever the size of its gradient.
        beta_1: the share of the mean step that is kept each round.
        beta_2: how slowly the squared step changes.
        tau: a step far below this counts as none; in the unit of a weight, after `training.learning_rate`.
    """

    kind: Literal["fedyogi"]
    server_learning_rate: ServerLearningRate
    beta_1: Decay = 0.9
    beta_2: Decay = 0.99
    tau: Tau = 1e-3


class FedAdagrad(_Average):
    """Adagrad on the average step: all squared steps so far are added up (Reddi et al., 2021).

    Attributes:
        server_learning_rate: how far a weight moves in the first round; less and less after it.
        tau: a step far below this counts as none; in the unit of a weight, after `training.learning_rate`.
    """

    kind: Literal["fedadagrad"]
    server_learning_rate: ServerLearningRate
    tau: Tau = 1e-3


class _Robust(Part):
    """What withstands so many sites that send anything.

    Attributes:
        malicious_sites: f, how many of the sites may lie without harm.
    """

    malicious_sites: Annotated[int, Field(ge=1, le=1000)]


class FedMedian(_Robust):
    """Of each weight the median over the sites, each counting alike (Yin et al., 2018): the honest are more than f."""

    kind: Literal["fedmedian"]

    def least_sites(self, sites: int) -> int:
        """Return the fewest sites whose releases may be combined: 2 f + 1."""
        return 2 * self.malicious_sites + 1


class FedTrimmedAvg(_Robust):
    """Of each weight the mean without the f largest and the f smallest, each site counting alike (Yin et al., 2018)."""

    kind: Literal["fedtrimmedavg"]

    def cut_share(self, sites: int) -> float:
        """Return the share of the values that is cut off at each end: the largest that is f of `sites`.

        Flower cuts the whole part of this share of those that gave a release, so the largest keeps the cut at f with
        the most sites absent.
        """
        return min((self.malicious_sites + 1) / max(1, sites), 0.5) - 1e-9

    def least_sites(self, sites: int) -> int:
        """Return the fewest sites, of `sites` in all, with which f are still cut off; never below 2 f + 1."""
        least, share = 2 * self.malicious_sites + 1, self.cut_share(sites)
        return next((n for n in range(least, sites) if int(share * n) >= self.malicious_sites), max(least, sites))


class Krum(_Robust):
    """The model of the one site that lies closest to its nearest n - f - 2 (Blanchard et al., 2017)."""

    kind: Literal["krum"]

    def least_sites(self, sites: int) -> int:
        """Return the fewest sites whose releases may be combined: 2 f + 3."""
        return 2 * self.malicious_sites + 3


class MultiKrum(_Robust):
    """The average, weighted by declared patients, of the m models that Krum finds best.

    Attributes:
        selected_sites: m.
    """

    kind: Literal["multikrum"]
    selected_sites: Annotated[int, Field(ge=1, le=10_000)]

    def least_sites(self, sites: int) -> int:
        """Return the fewest sites whose releases may be combined: 2 f + 3, and m + f + 2.

        Source: Damaskinos et al., "AggregaThor", MLSys 2019: m is at most n - f - 2.
        """
        return max(2 * self.malicious_sites + 3, self.selected_sites + self.malicious_sites + 2)


class Bulyan(_Robust):
    """Of each weight the mean of those nearest the median, of the models that Krum finds best (El Mhamdi, 2018)."""

    kind: Literal["bulyan"]

    def least_sites(self, sites: int) -> int:
        """Return the fewest sites whose releases may be combined: 4 f + 3."""
        return 4 * self.malicious_sites + 3


def _check_written(value: Any) -> Any:  # noqa: ANN401 - whatever a file says
    """Refuse what is no strategy with a sentence of its own."""
    if isinstance(value, str):
        raise ValueError(f'wanted a table that names it, such as {{ kind = "{value}" }}')
    if isinstance(value, dict) and value.get("kind") == "fedprox":
        raise ValueError(
            "'fedprox' would be 'fedavg': its proximal term acts between several local steps, and a round here is one "
            "step, at whose start the term is zero; write 'fedavg'"
        )
    return value


Strategy = Annotated[
    Annotated[
        FedAvg | FedAvgM | FedAdam | FedYogi | FedAdagrad | FedMedian | FedTrimmedAvg | Krum | MultiKrum | Bulyan,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_check_written),
]
