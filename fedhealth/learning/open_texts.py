"""Texts of a draft that only a person can say: such a study can be simulated, and is not signed. Torch-free."""

from fedhealth.errors import ConfigInvalid
from fedhealth.study.diagnosis_endpoints import NumberEndpoint
from fedhealth.study.features import NumberFeature
from fedhealth.study.protocol import Study

OPEN = "?"
"""The text that `fedhealth study new` writes where a person must say it: what for, on what ground, in what unit."""


def open_texts(study: Study) -> list[str]:
    """Return what is left open, in words."""
    texts = {"purpose": study.purpose, "legal_basis": study.legal_basis, "the outcome": study.endpoint.outcome}
    numbers = [part for part in (study.endpoint, *study.features) if isinstance(part, NumberFeature | NumberEndpoint)]
    texts |= {f"the unit of {part.column}": part.unit for part in numbers}
    return [name for name, text in texts.items() if text == OPEN]


def refuse_open_texts(study: Study) -> None:
    """Refuse a protocol in which somebody has left a text open.

    Raises:
        ConfigInvalid: names what is open.
    """
    if left_open := open_texts(study):
        raise ConfigInvalid(
            f"study '{study.name}' is not finished",
            got=f"'{OPEN}' for {', '.join(left_open)}",
            wanted="words, and for each unit a range from public knowledge beside it",
            next_step="Say them. A range that was taken from patients may tell who is in the table: replace it.",
        )
