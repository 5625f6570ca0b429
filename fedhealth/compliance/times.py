"""Times of a ledger, for people."""

from datetime import UTC, datetime


def time_text(milliseconds: int) -> str:
    """Return a Unix time, to the minute."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):  # later than calendars go
        return f"{milliseconds} ms after 1970"
