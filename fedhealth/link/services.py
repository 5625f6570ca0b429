"""What one end of a link may be asked by name, and why a question may have no answer.

The reasons are a closed list of codes; whoever answers keeps the details in the own log. How questions and answers
travel is left to `exchange`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

from fedhealth.errors import LinkUnavailable
from fedhealth.link.bodies import Body, IncomingBody
from fedhealth.link.memory import CHUNK_BYTES


@dataclass(frozen=True)
class Service:
    """What one name answers.

    Attributes:
        answer: takes the question and returns the answer.
        longest_question: in bytes; a longer one is refused unread.
    """

    answer: Callable[[IncomingBody], Awaitable[Body]]
    longest_question: int


def service_of(answer: Callable[[bytes], Awaitable[bytes]], longest_question: int = CHUNK_BYTES) -> Service:
    """Return a service whose questions and answers are small enough to be held in memory."""

    async def whole(question: IncomingBody) -> Body:
        return Body.of(await answer(bytes(await question.whole())))

    return Service(whole, longest_question)


class Failure(IntEnum):
    """Why a question has no answer; all that the other side ever learns."""

    FAILED = 0
    BUSY = 1
    TOO_LARGE = 2
    NO_SUCH_SERVICE = 3


_WORDS = {
    Failure.FAILED: "a failure without details",
    Failure.BUSY: "more questions than its quota allows",
    Failure.TOO_LARGE: "a question or an answer that is larger than its reader takes",
    Failure.NO_SUCH_SERVICE: "no service of this name",
}


class AskFailed(LinkUnavailable):
    """The other end is there but gave no answer; the reason is in its own log.

    Args:
        failure: the code it gave.
    """

    def __init__(self, peer: str, service: str, failure: Failure) -> None:
        super().__init__(
            f"{peer} could not answer '{service}'",
            got=_WORDS[failure],
            next_step="Its administrator finds the reason in the log of the program there.",
        )
        self.failure = failure


class PeerAway(LinkUnavailable):
    """The other end is not connected, its stream ended, or it did not answer in time."""


def away(peer: str, got: str) -> PeerAway:
    """Return the error of a peer that gives no answer."""
    return PeerAway(
        f"{peer} cannot be asked",
        got=got,
        wanted="an answer",
        next_step="It is asked again once it connects; if it stays away, call its administrator.",
    )
