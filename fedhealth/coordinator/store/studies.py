"""Studies as the coordinator keeps them: submitted and signed, offered to sites, answered by them, run, stopped, done.

Each method is one transaction. Moves between states are a closed table; whoever asks for another is told where the
study stands. What happens to a study is an event, written in the same transaction.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fedhealth.coordinator.store.database import session_of
from fedhealth.coordinator.store.tables import AnswerRow, EventRow, SignatureRow, StudyRow, StudyState
from fedhealth.errors import ConfigInvalid
from fedhealth.link.frames import Accepted
from fedhealth.study.signature import SignedStudy

_MOVES: Mapping[StudyState, frozenset[StudyState]] = {
    StudyState.OFFERED: frozenset({StudyState.RUNNING, StudyState.STOPPED}),
    StudyState.RUNNING: frozenset({StudyState.RUNNING, StudyState.WAITING, StudyState.STOPPED, StudyState.DONE}),
    StudyState.WAITING: frozenset({StudyState.RUNNING, StudyState.STOPPED}),
    StudyState.STOPPED: frozenset(),
    StudyState.DONE: frozenset(),
}


@dataclass(frozen=True)
class KnownStudy:
    """A study as the coordinator knows it; the fields are those of `tables.StudyRow`."""

    digest: str
    name: str
    signed: bytes
    state: StudyState
    reason: str
    retention_days: int
    submitted_at: int
    removed_at: int | None


@dataclass(frozen=True)
class StudyEvent:
    """Something that happened to a study.

    Attributes:
        number: in order, over all studies.
        at: milliseconds of Unix time.
        body: what, JSON-ready; its key "event" says which kind.
    """

    number: int
    at: int
    body: Mapping[str, Any]


class Studies:
    """The studies of one coordinator.

    Args:
        engine: its database, as `open_database` returned it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def close(self) -> None:
        """Close the database, for the runs in it too."""
        self._engine.dispose()

    def submit(
        self, signed: SignedStudy, data: bytes, retention_days: int, at: int, user: int | None = None
    ) -> KnownStudy:
        """Take in a study, once: the same study again changes nothing.

        Args:
            signed: the study; its signature holds.
            data: its canonical bytes.
            retention_days: how long its results shall be kept.
            user: the Unix user who handed it in; None for the operator.
            at: milliseconds of Unix time.

        Raises:
            ConfigInvalid: the study is here, signed by another researcher.
        """
        digest = signed.study.digest
        with session_of(self._engine) as session:
            row = session.get(StudyRow, digest)
            if row is None:
                row = StudyRow(
                    digest=digest,
                    name=signed.study.name,
                    signed=data,
                    state=StudyState.OFFERED,
                    reason="",
                    retention_days=retention_days,
                    submitted_at=at,
                )
                session.add(row)
                try:
                    session.flush()
                except IntegrityError:  # somebody was faster by a moment
                    session.rollback()
                    return self.submit(signed, data, retention_days, at, user)
                session.add(_signature(digest, "submit", signed.researcher, signed.signature, at))
                body = {"event": "submitted", "researcher": signed.researcher}
                session.add(event_row(digest, body | ({} if user is None else {"user": user}), at))
                session.commit()
            elif row.signed != data:
                raise ConfigInvalid(
                    f"study '{signed.study.name}' was submitted by another researcher",
                    wanted="a study that nobody submitted before, or the same signature",
                    next_step="Ask that researcher, or change the protocol: another protocol is another study.",
                )
            return _known(row)

    def find(self, digest: str) -> KnownStudy | None:
        """Return a study by its digest."""
        with session_of(self._engine) as session:
            row = session.get(StudyRow, digest)
            return None if row is None else _known(row)

    def all(self, states: Iterable[StudyState] = StudyState) -> list[KnownStudy]:
        """Return the studies in these states, in the order in which they came."""
        with session_of(self._engine) as session:
            wanted = (
                select(StudyRow)
                .where(StudyRow.state.in_(list(states)))
                .order_by(StudyRow.submitted_at, StudyRow.digest)
            )
            return [_known(row) for row in session.scalars(wanted)]

    def named(self, prefix: str) -> list[KnownStudy]:
        """Return the studies whose digests begin so."""
        with session_of(self._engine) as session:
            return [_known(row) for row in session.scalars(select(StudyRow).where(StudyRow.digest.startswith(prefix)))]

    def handed_in_by(self, user: int, states: Iterable[StudyState]) -> int:
        """Return how many studies in these states a Unix user handed in."""
        with session_of(self._engine) as session:
            wanted = (
                select(EventRow.body)
                .join(StudyRow, StudyRow.digest == EventRow.study)
                .where(StudyRow.state.in_(list(states)), EventRow.body.startswith('{"event": "submitted"'))
            )
            return sum(json.loads(body).get("user") == user for body in session.scalars(wanted))

    def move(self, digest: str, to: StudyState, at: int, reason: str = "") -> None:
        """Write down where a study stands now.

        Raises:
            ConfigInvalid: there is no such study, or it cannot go there from where it is.
        """
        with session_of(self._engine) as session:
            _move(session, digest, to, reason, at)
            session.commit()

    def stop(self, digest: str, researcher: str, signature: str, at: int) -> None:
        """Stop a study for ever, with the signature of the researcher who submitted it.

        Raises:
            ConfigInvalid: there is no such study, or it is over.
        """
        with session_of(self._engine) as session:
            _move(session, digest, StudyState.STOPPED, "its researcher stopped it", at)
            session.add(_signature(digest, "stop", researcher, signature, at))
            session.commit()

    def answered(self, digest: str, site: str, answer: Accepted | str, at: int) -> None:
        """Write down what a site said of a study: its signed approval, or the code of its refusal.

        An approval stays; the same refusal again changes nothing.
        """
        said = answer.model_dump_json() if isinstance(answer, Accepted) else None
        code = answer if isinstance(answer, str) else None
        with session_of(self._engine) as session:
            row = session.get(AnswerRow, (digest, site))
            if row is not None and (row.accepted is not None or row.code == code):
                return
            session.merge(AnswerRow(study=digest, site=site, accepted=said, code=code, at=at))
            body = {"event": "approved" if said else "not-approved", "site": site}
            session.add(event_row(digest, body | ({"code": code} if code else {}), at))
            session.commit()

    def approvals(self, digest: str) -> dict[str, Accepted]:
        """Return what the sites that approved a study signed, by site."""
        with session_of(self._engine) as session:
            wanted = select(AnswerRow).where(AnswerRow.study == digest, AnswerRow.accepted.is_not(None))
            rows = session.scalars(wanted.order_by(AnswerRow.site))
            return {row.site: Accepted.model_validate_json(row.accepted or "") for row in rows}

    def refusals(self, digest: str) -> dict[str, str]:
        """Return the code of each site that has answered and has not approved."""
        with session_of(self._engine) as session:
            wanted = select(AnswerRow).where(AnswerRow.study == digest, AnswerRow.code.is_not(None))
            return {row.site: row.code or "" for row in session.scalars(wanted.order_by(AnswerRow.site))}

    def tell(self, digest: str, body: Mapping[str, Any], at: int) -> None:
        """Add an event that changes nothing else."""
        with session_of(self._engine) as session:
            session.add(event_row(digest, body, at))
            session.commit()

    def events(self, digest: str, after: int = 0) -> list[StudyEvent]:
        """Return the events of a study with a number above `after`, in order."""
        with session_of(self._engine) as session:
            wanted = select(EventRow).where(EventRow.study == digest, EventRow.number > after).order_by(EventRow.number)
            return [StudyEvent(row.number, row.at, json.loads(row.body)) for row in session.scalars(wanted)]


def event_row(digest: str, body: Mapping[str, Any], at: int) -> EventRow:
    """Return the row of an event."""
    return EventRow(study=digest, at=at, body=json.dumps(body, sort_keys=True))


def _move(session: Session, digest: str, to: StudyState, reason: str, at: int) -> None:
    row = session.get(StudyRow, digest, with_for_update=True)
    if row is None:
        raise ConfigInvalid(f"no study {digest[:12]} was submitted here", next_step="fedhealth study submit --help")
    if to not in _MOVES[StudyState(row.state)]:
        raise ConfigInvalid(
            f"study '{row.name}' cannot become {to.value}",
            got=f"a study that is {row.state}",
            next_step="Nothing was changed." if row.state != StudyState.DONE else "It is over: its results are here.",
        )
    if row.state == to and row.reason == reason:
        return
    row.state, row.reason = to.value, reason[:2000]
    body = {"event": to.value} | ({"reason": row.reason} if reason else {})
    session.add(event_row(digest, body, at))


def _signature(digest: str, act: str, researcher: str, signature: str, at: int) -> SignatureRow:
    return SignatureRow(study=digest, act=act, researcher=researcher, signature=signature, at=at)


def _known(row: StudyRow) -> KnownStudy:
    return KnownStudy(
        digest=row.digest,
        name=row.name,
        signed=row.signed,
        state=StudyState(row.state),
        reason=row.reason,
        retention_days=row.retention_days,
        submitted_at=row.submitted_at,
        removed_at=row.removed_at,
    )
