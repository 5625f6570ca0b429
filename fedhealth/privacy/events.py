"""What a release did, as far as its privacy cost goes: the vocabulary that mechanisms and accountants share.

A mechanism states its event from the clip or bound it applies; an accountant prices it. Neither knows the other.

**Neighbouring relation**, the same for every event and written into each: two data sets are neighbours when one
patient, with all of the patient's records, is in one and not in the other. Numbers for "one patient replaced"
differ (a clipped mean's sensitivity doubles), so they cannot be stated in these events.

Invariants: an event is finite, within stated ranges, and of one of the types in `EVENT`; a type that an accountant
does not know is refused, a subclass of a known one too.

Leaves to others: prices (`accountant`, `renyi`), the informative epsilon (`pld`), who must be asked (`ledger`).
"""

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

NeighbouringRelation = Literal["one-patient-added-or-removed"]

MAX_REPETITIONS = 2**32


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    neighbours: NeighbouringRelation = "one-patient-added-or-removed"


class GaussianEvent(_Event):
    """A sum of clipped vectors plus Gaussian noise, over each patient with probability `sampling_rate`.

    Attributes:
        noise_multiplier: standard deviation over L2 sensitivity, in [0.01, 1e6].
        sampling_rate: probability, secret coins, each patient alone (Poisson sampling), in [1e-6, 1]; 1 is full batch.
        total_variation: distance of the sampled noise from the exact Gaussian, in [0, 2**-60].
    """

    kind: Literal["gaussian"] = "gaussian"
    noise_multiplier: Annotated[float, Field(ge=1e-2, le=1e6)]
    sampling_rate: Annotated[float, Field(ge=1e-6, le=1)]
    total_variation: Annotated[float, Field(ge=0, le=2.0**-60)]


class GeometricEvent(_Event):
    """Counts plus exact two-sided geometric noise; a patient changes at most `cells` of them, each by at most one.

    Attributes:
        epsilon: of one cell: noise k has a probability proportional to exp(-epsilon * |k|); in [2**-20, 16].
        cells: how many counts one patient may change, in [1, 2**20].
    """

    kind: Literal["geometric"] = "geometric"
    epsilon: Annotated[float, Field(ge=2.0**-20, le=16)]
    cells: Annotated[int, Field(ge=1, le=2**20)]


Event = GaussianEvent | GeometricEvent
EVENT = TypeAdapter[Event](Annotated[Event, Field(discriminator="kind")])


class Repeated(NamedTuple):
    """An event, and how often a plan has it.

    Attributes:
        event: one release.
        times: at least 1, at most `MAX_REPETITIONS`.
    """

    event: Event
    times: int


Plan = tuple[Repeated, ...]


def checked(event: Event) -> Event:
    """Return the event if it is of a known type and in its ranges.

    Events are checked where they are made; pydantic's `model_construct` and `model_copy` check nothing, so whatever
    states a price looks again.

    Raises:
        ValueError: it is not; nothing may be charged for it, and nothing released.
    """
    if type(event) not in (GaussianEvent, GeometricEvent):
        raise ValueError(f"unknown event {type(event).__name__}, wanted GaussianEvent or GeometricEvent")
    return EVENT.validate_python(event.model_dump())


def plan_of(parts: Iterable[tuple[Event, int]]) -> Plan:
    """Return a plan of checked events.

    Raises:
        ValueError: an event is unknown or out of range, is repeated less than once or too often, or there is none.
    """
    plan = tuple(Repeated(checked(event), times) for event, times in parts)
    if not plan:
        raise ValueError("a plan without events has no price")
    for each in plan:
        if type(each.times) is not int or not 1 <= each.times <= MAX_REPETITIONS:
            raise ValueError(f"an event is repeated 1 to {MAX_REPETITIONS} times, got {each.times}")
    return plan
