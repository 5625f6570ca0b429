"""Make the tables of studies, answers, runs, rounds, receipts and events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "owner",
        sa.Column("witness_key", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("witness_key", name=op.f("pk_owner")),
    )
    op.create_table(
        "study",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=2000), nullable=False),
        sa.Column("retention_days", sa.BigInteger(), nullable=False),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state in ('offered', 'running', 'waiting', 'stopped', 'done')", name=op.f("ck_study_state")
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_study")),
    )
    op.create_table(
        "answer",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("accepted", sa.String(), nullable=True),
        sa.Column("code", sa.String(length=32), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(accepted is null) <> (code is null)", name=op.f("ck_answer_one_of_two")),
        sa.ForeignKeyConstraint(["study"], ["study.digest"], name=op.f("fk_answer_study"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study", "site", name=op.f("pk_answer")),
    )
    op.create_table(
        "event",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["study.digest"], name=op.f("fk_event_study"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_study"), "event", ["study"], unique=False)
    op.create_table(
        "run",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("sites", sa.String(), nullable=False),
        sa.Column("starts", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.String(), nullable=True),
        sa.Column("absent", sa.String(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["study"], ["study.digest"], name=op.f("fk_run_study"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study", name=op.f("pk_run")),
    )
    op.create_table(
        "signature",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("act", sa.String(length=16), nullable=False),
        sa.Column("researcher", sa.String(length=64), nullable=False),
        sa.Column("signature", sa.String(length=128), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["study.digest"], name=op.f("fk_signature_study"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study", "act", name=op.f("pk_signature")),
    )
    op.create_table(
        "head",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("note", sa.String(length=1000), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["run.study"], name=op.f("fk_head_study"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study", "site", name=op.f("pk_head")),
    )
    op.create_table(
        "receipt",
        sa.Column("release", sa.String(length=64), nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("given", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["run.study"], name=op.f("fk_receipt_study"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("release", name=op.f("pk_receipt")),
    )
    op.create_index(op.f("ix_receipt_study"), "receipt", ["study"], unique=False)
    op.create_table(
        "round",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("round", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_sha256", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["run.study"], name=op.f("fk_round_study"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study", "round", name=op.f("pk_round")),
    )
    op.create_table(
        "part",
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("round", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("absent", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["study", "round"], ["round.study", "round.round"], name=op.f("fk_part_study_round"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("study", "round", "site", name=op.f("pk_part")),
    )


def downgrade() -> None:
    """Remove them with all they hold."""
    op.drop_table("part")
    op.drop_table("round")
    op.drop_index(op.f("ix_receipt_study"), table_name="receipt")
    op.drop_table("receipt")
    op.drop_table("head")
    op.drop_table("signature")
    op.drop_table("run")
    op.drop_index(op.f("ix_event_study"), table_name="event")
    op.drop_table("event")
    op.drop_table("answer")
    op.drop_table("study")
    op.drop_table("owner")
