"""The coordinator's tables, as SQLAlchemy's typed mapping has them.

Nothing here depends on patients but what was noised and charged: the counts of an evaluation. Payloads of training
releases are in no table. Times are milliseconds of Unix time. A change here needs a migration (`migrations/versions`);
a test compares the two.
"""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_DIGEST = String(64)
_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class StudyState(StrEnum):
    """Where a study stands.

    Attributes:
        OFFERED: waits for the sites' approvals.
        RUNNING: its rounds are being run.
        WAITING: fewer sites than its quorum gave a release; it goes on when they are back.
        STOPPED: its researcher stopped it, or the coordinator's operator; final.
        DONE: its evidence is written; final.
    """

    OFFERED = "offered"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"
    DONE = "done"


class Base(DeclarativeBase):
    """The tables of one coordinator."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map = {int: BigInteger}  # noqa: RUF012 - SQLAlchemy reads it from the class


class OwnerRow(Base):
    """Whose tables these are: one row, so that two coordinators never share a database.

    Attributes:
        witness_key: raw Ed25519 public key of the coordinator, hexadecimal.
    """

    __tablename__ = "owner"
    witness_key: Mapped[str] = mapped_column(_DIGEST, primary_key=True)


class StudyRow(Base):
    """A study.

    Attributes:
        digest: of its protocol.
        name: of its protocol.
        signed: canonical bytes of the protocol with its researcher's signature.
        state: one of `StudyState`.
        reason: why, in words for its researcher; empty where the state says enough.
        retention_days: how long its results are kept.
        submitted_at: when it came; its place in the queue.
        removed_at: when its results were removed.
    """

    __tablename__ = "study"
    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    signed: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(2000), default="")
    retention_days: Mapped[int]
    submitted_at: Mapped[int]
    removed_at: Mapped[int | None]
    __table_args__ = (CheckConstraint("state in ('offered', 'running', 'waiting', 'stopped', 'done')", name="state"),)


class SignatureRow(Base):
    """What a researcher signed: the study, and that it be stopped.

    Attributes:
        study: its digest.
        act: "submit" or "stop".
        researcher: raw Ed25519 public key, hexadecimal.
        signature: in hexadecimal.
        at: when it came.
    """

    __tablename__ = "signature"
    study: Mapped[str] = mapped_column(_DIGEST, ForeignKey("study.digest", ondelete="CASCADE"), primary_key=True)
    act: Mapped[str] = mapped_column(String(16), primary_key=True)
    researcher: Mapped[str] = mapped_column(_DIGEST)
    signature: Mapped[str] = mapped_column(String(128))
    at: Mapped[int]


class AnswerRow(Base):
    """What a site answered when it was asked whether a study is approved.

    Attributes:
        study: its digest.
        site: the site's id.
        accepted: canonical JSON of its signed `Accepted`; None while it has not approved.
        code: why not, as the site said it last; None once it has approved.
        at: when it first answered so.
    """

    __tablename__ = "answer"
    study: Mapped[str] = mapped_column(_DIGEST, ForeignKey("study.digest", ondelete="CASCADE"), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    accepted: Mapped[str | None]
    code: Mapped[str | None] = mapped_column(String(32))
    at: Mapped[int]
    __table_args__ = (CheckConstraint("(accepted is null) <> (code is null)", name="one_of_two"),)


class RunRow(Base):
    """The run of a study; there is one, which is resumed until the study is done.

    Attributes:
        study: its digest.
        folder: where checkpoint, model and evidence go.
        sites: JSON list of all sites of the study.
        starts: how often it was begun or gone on with.
        counts: JSON of each site's released counts, once the model was evaluated; they are noised and charged.
        absent: JSON of the public code of each site that gave none.
        started_at: when it was begun.
        finished_at: when its evidence was written.
    """

    __tablename__ = "run"
    study: Mapped[str] = mapped_column(_DIGEST, ForeignKey("study.digest", ondelete="CASCADE"), primary_key=True)
    folder: Mapped[str]
    sites: Mapped[str]
    starts: Mapped[int]
    counts: Mapped[str | None]
    absent: Mapped[str | None]
    started_at: Mapped[int]
    finished_at: Mapped[int | None]


class RoundRow(Base):
    """A round of training that is in the durable checkpoint.

    Attributes:
        study: its digest.
        round: from 1.
        number: of its releases; ahead of `round` where releases were lost and a spare number was used.
        checkpoint_sha256: of the file.
        at: when it was completed.
    """

    __tablename__ = "round"
    study: Mapped[str] = mapped_column(_DIGEST, ForeignKey("run.study", ondelete="CASCADE"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    checkpoint_sha256: Mapped[str] = mapped_column(_DIGEST)
    at: Mapped[int]


class PartRow(Base):
    """Whether a site took part in a round.

    Attributes:
        study: its digest.
        round: from 1.
        site: the site's id.
        absent: the public code of a site that gave no release; None for one that did.
    """

    __tablename__ = "part"
    study: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    absent: Mapped[str | None] = mapped_column(String(32))
    __table_args__ = (ForeignKeyConstraint(["study", "round"], ["round.study", "round.round"], ondelete="CASCADE"),)


class ReceiptRow(Base):
    """A release that is in a checkpoint, and whether its site has the coordinator's receipt for that.

    Attributes:
        release: its name.
        study: its digest.
        site: the site's id.
        given: a receipt that names it was answered, so that the site may have dropped the payload.
    """

    __tablename__ = "receipt"
    release: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    study: Mapped[str] = mapped_column(_DIGEST, ForeignKey("run.study", ondelete="CASCADE"), index=True)
    site: Mapped[str] = mapped_column(String(63))
    given: Mapped[bool]


class HeadRow(Base):
    """The last head that a site has shown in a run; what is published of a site that is away at the end.

    Attributes:
        study: its digest.
        site: the site's id.
        note: the signed head.
    """

    __tablename__ = "head"
    study: Mapped[str] = mapped_column(_DIGEST, ForeignKey("run.study", ondelete="CASCADE"), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    note: Mapped[str] = mapped_column(String(1000))


class EventRow(Base):
    """What happened to a study, in order; this is what `watch` shows.

    Attributes:
        number: in order, over all studies.
        study: its digest.
        at: when.
        body: JSON of the event.
    """

    __tablename__ = "event"
    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    study: Mapped[str] = mapped_column(_DIGEST, ForeignKey("study.digest", ondelete="CASCADE"), index=True)
    at: Mapped[int]
    body: Mapped[str]
