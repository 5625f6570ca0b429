"""What one peer may take of this end: requests at a time, bytes held for them, requests a second.

A request beyond a quota is refused with a code and costs nothing more; the stream and everybody else's go on.

No input or output here; the clock is an argument.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Quota:
    """Limits on what the other end of one stream may ask.

    Attributes:
        open_requests: requests that are being answered at the same time.
        held_bytes: bytes of questions that arrived and that no service has taken yet.
        requests_a_second: sustained; a second's worth may come at once.
    """

    open_requests: int
    held_bytes: int
    requests_a_second: float


QUOTA_OF_COORDINATOR = Quota(open_requests=256, held_bytes=32 * 2**20, requests_a_second=1000.0)
"""At a site: far above what studies need, and a bound on the memory of a node."""
QUOTA_OF_SITE = Quota(open_requests=4, held_bytes=2**18, requests_a_second=10.0)
"""At the coordinator, for each site: it asks now and then which studies wait, and for a new certificate."""
QUOTA_OF_FLOWER_SITE = Quota(open_requests=16, held_bytes=16 * 2**20, requests_a_second=200.0)
"""At the coordinator, for each site, where a SuperNode asks over the link as well: some 15 requests a message."""


class Bucket:
    """A token bucket.

    Args:
        a_second: tokens that come back each second.
        most: tokens it holds at most, and at first.
        clock: monotonic seconds.
    """

    def __init__(self, a_second: float, most: float, clock: Callable[[], float]) -> None:
        self._a_second, self._most, self._clock = a_second, most, clock
        self._tokens, self._at = most, clock()

    def take(self) -> float:
        """Take a token and return 0, or, where none is left, for how many seconds there is none.

        The token is taken in either case by whoever waits that long; `has_one` is for those who do not wait.
        """
        self._refill()
        self._tokens -= 1
        return max(0.0, -self._tokens / self._a_second)

    def has_one(self) -> bool:
        """Take a token and return True, or return False where none is left."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._a_second)
        self._at = now
