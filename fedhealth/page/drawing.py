"""The other hospitals' counts as rows to be drawn: each with the interval that holds the truth in 19 of 20.

Lengths are shares of the widest row, in hundredths, so that all rows have one scale.
"""

from dataclasses import dataclass

from fedhealth.link.counts import CountAnswer
from fedhealth.site.asking import CountFigures


@dataclass(frozen=True)
class DrawnCount:
    """One hospital's row.

    Attributes:
        site: its id; "" for all together.
        count: the blurred count; None for "fewer", or where there is no answer.
        low: the interval's first count, not below 0.
        high: its last.
        start: where it is drawn from, in hundredths of the scale.
        end: to where.
        at: where the count is drawn; None where it is not told.
        absent: the code of why there is no answer; "" where there is one.
    """

    site: str
    count: int | None
    low: int = 0
    high: int = 0
    start: float = 0.0
    end: float = 0.0
    at: float | None = None
    absent: str = ""


def drawn_counts(found: CountAnswer, figures: CountFigures) -> tuple[DrawnCount, ...]:
    """Return the rows: hospitals that answered in the order of their ids, all together, those without an answer.

    "Fewer" is drawn from 0 to what the truth may be where the noisy count is just below the threshold.
    """
    rows: list[tuple[str, int | None, int, int]] = []
    for site, count in sorted(found.counts.items()):
        at = figures.fewer_than - 1 if count is None else count
        rows.append((site, count, 0 if count is None else at - figures.half_width, at + figures.half_width))
    told = sum(count is not None for count in found.counts.values())
    if told > 1 and figures.total is not None and figures.total_half_width is not None:
        width = figures.total_half_width
        rows.append(("", figures.total, figures.total - width, figures.total + width))
    widest = max((high for *_, high in rows), default=1)
    drawn = [
        DrawnCount(
            site,
            count,
            max(0, low),
            high,
            round(100 * max(0, low) / widest, 2),
            round(100 * high / widest, 2),
            None if count is None else round(100 * count / widest, 2),
        )
        for site, count, low, high in rows
    ]
    return (*drawn, *(DrawnCount(site, None, absent=code) for site, code in sorted(found.absent.items())))
