"""Runs as the coordinator keeps them: which round is done, which site took part, which releases are acknowledged.

The checkpoint file is what a run goes on from (`fedhealth.coordinator.round_checkpoint`); these rows follow it by at
most one round and are brought up to it when a run is resumed. Each method is one transaction.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, update
from sqlalchemy.orm import Session

from fedhealth.coordinator.asking import Shown
from fedhealth.coordinator.participation import CompletedRound
from fedhealth.coordinator.store.database import session_of
from fedhealth.coordinator.store.studies import event_row
from fedhealth.coordinator.store.tables import HeadRow, PartRow, ReceiptRow, RoundRow, RunRow, StudyRow

WENT_BACK = "went-back"
"""The event that the checkpoint of a run was lost, or is older than it was."""


@dataclass(frozen=True)
class KnownRun:
    """The run of a study.

    Attributes:
        folder: where its files are.
        sites: all sites of the study, for ever those that had joined when it was begun.
        starts: how often it was begun or gone on with.
        counts: the released counts of each site, once the model was evaluated.
        absent: the public code of each site that gave none then.
        started_at: milliseconds of Unix time.
        finished_at: the same.
    """

    folder: str
    sites: tuple[str, ...]
    starts: int
    counts: Mapping[str, Mapping[str, float]] | None
    absent: Mapping[str, str]
    started_at: int
    finished_at: int | None


class Runs:
    """The runs of one coordinator.

    Args:
        engine: its database, as `open_database` returned it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, study: str, folder: str, sites: Iterable[str], at: int) -> KnownRun:
        """Begin the run of a study, or go on with it; a run stays in its folder and with its sites."""
        with session_of(self._engine) as session:
            row = session.get(RunRow, study)
            if row is None:
                row = RunRow(study=study, folder=folder, sites=json.dumps(sorted(sites)), starts=0, started_at=at)
                session.add(row)
            row.starts += 1
            session.commit()
            return _known(row)

    def find(self, study: str) -> KnownRun | None:
        """Return the run of a study."""
        with session_of(self._engine) as session:
            row = session.get(RunRow, study)
            return None if row is None else _known(row)

    def keep_rounds(
        self,
        study: str,
        sites: Iterable[str],
        rounds: Sequence[CompletedRound],
        checkpoint_sha256: str,
        shown: Shown,
        event: Mapping[str, Any] | None,
        at: int,
    ) -> None:
        """Write down rounds that are in the checkpoint, in one commit; those that are here already are left alone.

        Args:
            study: its digest.
            sites: all sites of the study.
            rounds: in order; usually one.
            checkpoint_sha256: of the checkpoint that holds them.
            shown: what the sites have shown and been told meanwhile.
            event: what is told of it; None for nothing.
            at: milliseconds of Unix time.
        """
        with session_of(self._engine) as session:
            first = rounds[0].round if rounds else 0
            later = select(RoundRow.round).where(RoundRow.study == study, RoundRow.round >= first)
            here = set(session.scalars(later))
            new = [each for each in rounds if each.round not in here]
            if new:
                same = {"study": study, "checkpoint_sha256": checkpoint_sha256, "at": at}
                session.execute(insert(RoundRow), [same | {"round": each.round, "number": each.number} for each in new])
                parts = [
                    {"study": study, "round": each.round, "site": site, "absent": each.absent.get(site)}
                    for each in new
                    for site in sites
                ]
                session.execute(insert(PartRow), parts)
            _keep_shown(session, study, shown)
            if event is not None:
                session.add(event_row(study, event, at))
            session.commit()

    def rewind(self, study: str, completed: int, at: int) -> None:
        """Forget the rounds after `completed`: the checkpoint that the run goes on from does not hold them.

        That there were any is kept: sites may have charged for them.
        """
        with session_of(self._engine) as session:
            later = (RoundRow.study == study, RoundRow.round > completed)
            known = session.scalar(select(func.max(RoundRow.round)).where(*later))
            if known is not None:
                session.execute(delete(RoundRow).where(*later))
                session.add(event_row(study, {"event": WENT_BACK, "from": known, "round": completed}, at))
            session.commit()

    def keep_counts(
        self, study: str, counts: Mapping[str, Mapping[str, float]], absent: Mapping[str, str], shown: Shown, at: int
    ) -> None:
        """Write down what the sites released of the model; from then on they may drop it."""
        with session_of(self._engine) as session:
            row = session.get_one(RunRow, study)
            row.counts, row.absent = json.dumps(counts, sort_keys=True), json.dumps(absent, sort_keys=True)
            _keep_shown(session, study, shown)
            session.add(event_row(study, {"event": "evaluated", "absent": dict(absent)}, at))
            session.commit()

    def finish(self, study: str, shown: Shown, at: int) -> None:
        """Write down that the evidence is written, and what the sites have shown and been told until now."""
        with session_of(self._engine) as session:
            session.get_one(RunRow, study).finished_at = at
            _keep_shown(session, study, shown)
            session.commit()

    def keep_shown(self, study: str, shown: Shown) -> None:
        """Write down what the sites have shown and been told, apart from any round."""
        with session_of(self._engine) as session:
            _keep_shown(session, study, shown)
            session.commit()

    def rounds(self, study: str) -> list[CompletedRound]:
        """Return the rounds of a run, in order."""
        with session_of(self._engine) as session:
            absent: dict[int, dict[str, str]] = {}
            missing = select(PartRow).where(PartRow.study == study, PartRow.absent.is_not(None))
            for part in session.scalars(missing.order_by(PartRow.site)):
                absent.setdefault(part.round, {})[part.site] = part.absent or ""
            wanted = select(RoundRow).where(RoundRow.study == study).order_by(RoundRow.round)
            return [CompletedRound(row.round, row.number, absent.get(row.round, {})) for row in session.scalars(wanted)]

    def unacknowledged(self, study: str | None = None) -> dict[str, list[str]]:
        """Return the releases of a study, or of all, that no answered receipt has named yet, by site."""
        waiting: dict[str, list[str]] = {}
        with session_of(self._engine) as session:
            wanted = select(ReceiptRow).where(ReceiptRow.given.is_(False))
            if study is not None:
                wanted = wanted.where(ReceiptRow.study == study)
            for row in session.scalars(wanted.order_by(ReceiptRow.site, ReceiptRow.release)):
                waiting.setdefault(row.site, []).append(row.release)
        return waiting

    def remove(self, study: str, at: int) -> None:
        """Remove what is known of a run; that it was removed, and when, stays."""
        with session_of(self._engine) as session:
            session.execute(delete(RunRow).where(RunRow.study == study))
            session.get_one(StudyRow, study).removed_at = at
            session.add(event_row(study, {"event": "results-removed"}, at))
            session.commit()

    def heads(self, study: str) -> dict[str, str]:
        """Return the last head that each site has shown in a run, as its signed note."""
        with session_of(self._engine) as session:
            return {row.site: row.note for row in session.scalars(select(HeadRow).where(HeadRow.study == study))}


def _keep_shown(session: Session, study: str, shown: Shown) -> None:
    named = {release: site for site, releases in shown.releases.items() for release in releases}
    known = set(session.scalars(select(ReceiptRow.release).where(ReceiptRow.release.in_(list(named)))))
    rows = [
        {"release": release, "study": study, "site": site, "given": False}
        for release, site in named.items()
        if release not in known
    ]
    if rows:
        session.execute(insert(ReceiptRow), rows)
    if shown.acknowledged:
        given = update(ReceiptRow).where(ReceiptRow.release.in_(shown.acknowledged))
        session.execute(given.values(given=True).execution_options(synchronize_session=False))
    if shown.heads:
        session.execute(delete(HeadRow).where(HeadRow.study == study, HeadRow.site.in_(list(shown.heads))))
        heads = [{"study": study, "site": site, "note": note} for site, note in shown.heads.items()]
        session.execute(insert(HeadRow), heads)


def _known(row: RunRow) -> KnownRun:
    return KnownRun(
        folder=row.folder,
        sites=tuple(json.loads(row.sites)),
        starts=row.starts,
        counts=None if row.counts is None else json.loads(row.counts),
        absent=json.loads(row.absent or "{}"),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
