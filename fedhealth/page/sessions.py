"""Who may use the page: a token that is typed once, then a session that ends; and forms that only the page made.

The token is drawn anew at each start; the page keeps its hash alone. A session is a random cookie of which the hash is
kept, too. A form's mark is a keyed hash of the visitor's cookie, so that no other page can make one (OWASP, "Cross-Site
Request Forgery Prevention", signed double submit). Wrong tokens are counted over all visitors: after a few, everybody
waits.

Invariants: a session's questions are in this process's memory alone, and gone with it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from fedhealth.link.counts import CountAnswer
from fedhealth.page.messages import FoundDocument, ProposedCode, SearchAsked
from fedhealth.site.asking import PreparedCount

IDLE_SECONDS, LONGEST_SECONDS = 30 * 60.0, 12 * 3600.0
MOST_SESSIONS, MOST_QUESTIONS, MOST_COUNTS = 16, 50, 50
WRONG_TOKENS, WRONG_SECONDS = 5, 60.0
"""So many wrong tokens are borne within so many seconds."""
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def draw_token() -> str:
    """Return a new token of 125 bits, for a person to type: five groups of five."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(5))


def hash_of(token: str) -> str:
    """Return what is kept of a token; small letters, spaces and dashes do not matter."""
    return hashlib.sha256("".join(each for each in token.upper() if each.isalnum()).encode()).hexdigest()


@dataclass
class AskedQuestion:
    """A question of a session, what it found last, and what it proposes to have counted."""

    asked: SearchAsked
    typed: dict[str, list[str]]
    hits: dict[int, FoundDocument] = field(default_factory=dict)
    proposed: tuple[ProposedCode, ...] = ()


@dataclass
class AskedCount:
    """A count of a session: prepared, then answered, or why not: in the page's words, and the reason itself."""

    prepared: PreparedCount
    answer: CountAnswer | None = None
    failed: str = ""
    why: str = ""


@dataclass
class Session:
    """One person's use of the page."""

    began: float
    used: float
    questions: dict[int, AskedQuestion] = field(default_factory=dict)
    counts: dict[int, AskedCount] = field(default_factory=dict)
    numbers: int = 0

    def keep_question(self, question: AskedQuestion) -> int:
        """Keep a question; return its number. The oldest make room."""
        self.numbers += 1
        self.questions[self.numbers] = question
        while len(self.questions) > MOST_QUESTIONS:
            del self.questions[min(self.questions)]
        return self.numbers

    def keep_count(self, count: AskedCount) -> int:
        """Keep a count; return its number. The oldest make room."""
        self.numbers += 1
        self.counts[self.numbers] = count
        while len(self.counts) > MOST_COUNTS:
            del self.counts[min(self.counts)]
        return self.numbers


class Sessions:
    """All sessions of a page; owned by its event loop's threads, each act of which is a single step.

    Args:
        token_hash: of the token of this start.
        clock: a monotonic time in seconds.
    """

    def __init__(self, token_hash: str, clock: Callable[[], float]) -> None:
        self._token_hash, self._clock = token_hash, clock
        self._secret = secrets.token_bytes(32)
        self._sessions: dict[str, Session] = {}
        self._wrong: list[float] = []

    def enter(self, token: str) -> str | None:
        """Return the cookie of a new session, or None for a wrong token."""
        if not hmac.compare_digest(hash_of(token), self._token_hash):
            self._wrong.append(self._clock())
            return None
        cookie, now = secrets.token_urlsafe(32), self._clock()
        while len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda each: self._sessions[each].used)]
        self._sessions[_name(cookie)] = Session(now, now)
        return cookie

    def must_wait(self) -> int:
        """Return for how many seconds no token is taken, since too many were wrong; 0 for none."""
        now = self._clock()
        self._wrong = [at for at in self._wrong if now - at < WRONG_SECONDS]
        return 0 if len(self._wrong) < WRONG_TOKENS else int(WRONG_SECONDS - (now - self._wrong[-WRONG_TOKENS])) + 1

    def find(self, cookie: str) -> Session | None:
        """Return a session that has not ended, and note that it was used."""
        name, now = _name(cookie), self._clock()
        session = self._sessions.get(name)
        if session is None:
            return None
        if now - session.used > IDLE_SECONDS or now - session.began > LONGEST_SECONDS:
            self.leave(cookie)
            return None
        session.used = now
        return session

    def leave(self, cookie: str) -> None:
        """End a session and forget all of it."""
        self._sessions.pop(_name(cookie), None)

    def mark(self, cookie: str) -> str:
        """Return what a form must carry that this visitor sends."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()

    def is_marked(self, cookie: str, mark: str) -> bool:
        """Return whether a form carries its visitor's mark."""
        return bool(cookie) and hmac.compare_digest(self.mark(cookie).encode(), mark.encode())


def _name(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
