"""How long to wait before a process that ended is started again: later each time, until one has run for long."""

_FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0


class RestartWaits:
    """The waits of one process."""

    def __init__(self) -> None:
        self._next = _FIRST_SECONDS

    def after(self, ran: float) -> float:
        """Return the seconds to wait after a process that ran for so many seconds."""
        now = _FIRST_SECONDS if ran >= LONGEST_SECONDS else self._next
        self._next = min(2 * now, LONGEST_SECONDS)
        return now
