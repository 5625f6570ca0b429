"""The page's end of the line to the process that searches; a new line takes the place of one that broke.

One question at a time is on the line: the other end answers in order. A question that is not answered in time, or not
in the form that answers have, breaks the line, and with it ends the process at its other end.
"""

import socket
import threading
import time
from contextlib import suppress

from fedhealth.errors import LinkUnavailable
from fedhealth.page.messages import (
    MAX_ANSWER_BYTES,
    DocumentAsked,
    Found,
    Names,
    NamesAsked,
    Refused,
    SearchAsked,
    WholeDocument,
    read_answer,
    receive_bytes,
    send_bytes,
)

ANSWER_SECONDS = 60.0
"""A search waits while the gate computes a round."""
READY_SECONDS = 10.0
"""How long a question waits for a process that is being started."""


class SearchAway(LinkUnavailable):
    """The process that searches is not there, or went away in the midst of a question."""


class SearchRefused(LinkUnavailable):
    """The process that searches gives no answer to this question."""


class SearchChannel:
    """The line, shared by the page's threads.

    Args:
        answer_seconds: how long an answer may take.
        ready_seconds: how long the start of a process may take that a question waits for.
    """

    def __init__(self, answer_seconds: float = ANSWER_SECONDS, ready_seconds: float = READY_SECONDS) -> None:
        self._answer_seconds, self._ready_seconds = answer_seconds, ready_seconds
        self._turn, self._changed = threading.Lock(), threading.Condition()
        self._line: socket.socket | None = None

    def attach(self, line: socket.socket) -> None:
        """Take a line to a new process in the place of the one before."""
        line.settimeout(self._answer_seconds)
        with self._changed:
            before, self._line = self._line, line
            self._changed.notify_all()
        if before is not None:
            before.close()

    def search(self, asked: SearchAsked) -> Found:
        """Return what the index says.

        Raises:
            SearchAway: nobody answers.
            SearchRefused: it cannot be answered.
        """
        answer = self._ask(asked)
        if isinstance(answer, Found):
            return answer
        raise _no_answer(answer)

    def document(self, source: str, key: str) -> WholeDocument:
        """Return a document; errors as `search`."""
        answer = self._ask(DocumentAsked(source=source, key=key))
        if isinstance(answer, WholeDocument):
            return answer
        raise _no_answer(answer)

    def names(self, codes: tuple[str, ...]) -> Names:
        """Return what codes mean, from a process that is there already; errors as `search`."""
        if self._line is None:
            raise _away()
        answer = self._ask(NamesAsked(codes=codes))
        if isinstance(answer, Names):
            return answer
        raise _no_answer(answer)

    def _ask(self, asked: SearchAsked | DocumentAsked | NamesAsked) -> Found | WholeDocument | Names | Refused:
        if not self._turn.acquire(timeout=self._answer_seconds):
            raise _away()
        try:
            line = self._ready()
            try:
                send_bytes(line, asked.model_dump_json().encode())
                return read_answer(receive_bytes(line, MAX_ANSWER_BYTES))
            except OSError:
                self._break(line)
                raise _away() from None
        finally:
            self._turn.release()

    def _ready(self) -> socket.socket:
        deadline = time.monotonic() + self._ready_seconds
        with self._changed:
            while self._line is None:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise _away()
            return self._line

    def _break(self, line: socket.socket) -> None:
        with self._changed:
            if self._line is line:
                self._line = None
        with suppress(OSError):
            line.close()


def _no_answer(answer: Found | WholeDocument | Names | Refused) -> LinkUnavailable:
    return SearchRefused(answer.what, next_step=answer.next_step) if isinstance(answer, Refused) else _away()


def _away() -> SearchAway:
    return SearchAway("the search is away", next_step="It is being started; ask again in a moment.")
