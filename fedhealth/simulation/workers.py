"""The gates of a simulation over several processes, each with some of the sites; the parent's side.

What a site computes depends on nobody else, and releases are combined in the order of the sites' names, so the result
does not depend on who computes which site. Workers are in sessions of their own, and end with their standard input:
Ctrl-C reaches the parent alone, and nothing is left running.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.coordinator.evidence import LedgerHead
from fedhealth.errors import FederationFailed
from fedhealth.flower.link_grid import NotReleased
from fedhealth.privacy.release import StepName
from fedhealth.privacy.simulated_ledger import join_simulated_ledgers
from fedhealth.simulation.gates import SimulatedSite
from fedhealth.simulation.pipes import (
    Answers,
    AskHeads,
    AskSites,
    Heads,
    Message,
    Open,
    SiteRecords,
    WriteLedgers,
    receive,
    send,
)
from fedhealth.study.protocol import Study


class SiteWorkers:
    """The processes of one simulation; owns them until `close`.

    Args:
        study: the only one.
        sites: at least as many as processes.
        researcher: signs the study.
        workers: how many processes.

    Raises:
        FederationFailed: one of them ended.
    """

    def __init__(
        self, study: Study, sites: Sequence[SimulatedSite], researcher: Ed25519PrivateKey, workers: int
    ) -> None:
        self._workers = [_start() for _ in range(workers)]
        parts = _parts(sites, workers)
        self._sites = [[site.file.id for site in part] for part in parts]
        try:
            for worker, part in zip(self._workers, parts, strict=True):
                records = tuple(_records(site) for site in part)
                _tell(worker, Open(study=study, researcher=researcher.private_bytes_raw().hex(), sites=records))
            for worker in self._workers:
                _hear(worker)
        except BaseException:
            self.close()
            raise

    def releases(self, step: StepName, number: int, data: Mapping[str, bytes]) -> dict[str, bytes | NotReleased]:
        """Return the answer of each site in `data` to a question with its own input."""
        for worker, sites in zip(self._workers, self._sites, strict=True):
            inputs = {site: data[site] for site in sites if site in data}
            place = {body: at for at, body in enumerate(dict.fromkeys(inputs.values()))}
            which = {site: place[body] for site, body in inputs.items()}
            length = max(map(len, place), default=0)
            _tell(worker, AskSites(step=step, round=number, sites=which, length=length), b"".join(place))
        found: dict[str, bytes | NotReleased] = {}
        for worker in self._workers:
            answers, body = _hear(worker)
            assert isinstance(answers, Answers)  # noqa: S101 - our own program
            start = 0
            for site, one in answers.sites.items():
                found[site] = NotReleased(one) if isinstance(one, str) else body[start : start + one]
                start += 0 if isinstance(one, str) else one
        return found

    def heads(self) -> Mapping[str, LedgerHead]:
        """Return the countersigned head of each site's ledger."""
        for worker in self._workers:
            _tell(worker, AskHeads())
        found: dict[str, LedgerHead] = {}
        for worker in self._workers:
            heads, _ = _hear(worker)
            assert isinstance(heads, Heads)  # noqa: S101 - our own program
            found |= heads.sites
        return found

    def write_ledgers(self, path: Path) -> None:
        """Write what the ledgers hold to one new file."""
        with tempfile.TemporaryDirectory(prefix="fedhealth-simulation-") as folder:
            parts = [Path(folder) / str(number) for number in range(len(self._workers))]
            for worker, part in zip(self._workers, parts, strict=True):
                _tell(worker, WriteLedgers(path=str(part)))
            for worker in self._workers:
                _hear(worker)
            join_simulated_ledgers(path, parts)

    def close(self) -> None:
        """Leave nothing running."""
        for worker in self._workers:
            worker.kill()  # it has nothing to lose
        for worker in self._workers:
            worker.wait()
            for stream in (worker.stdin, worker.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:  # the rest of a question that nobody reads any more
                        continue


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "fedhealth.simulation.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def _parts(sites: Sequence[SimulatedSite], workers: int) -> list[list[SimulatedSite]]:
    """Divide sites so that each process has about as many rows, and at least one site."""
    parts: list[list[SimulatedSite]] = [[] for _ in range(workers)]
    rows = [0] * workers
    for site in sorted(sites, key=lambda each: len(each.table.rows), reverse=True):
        least = min(range(workers), key=lambda number: (rows[number], len(parts[number])))
        parts[least].append(site)
        rows[least] += len(site.table.rows)
    return parts


def _records(site: SimulatedSite) -> SiteRecords:
    return SiteRecords.model_construct(
        file=site.file,
        columns=site.table.columns,
        rows=site.table.rows,
        row_word=site.table.row_word,
        split_key=site.split_key.hex(),
        naming_secret=site.naming_secret.hex(),
        noise_seed=site.noise_seed,
    )


def _tell(worker: subprocess.Popen[bytes], message: Message, body: bytes = b"") -> None:
    assert worker.stdin is not None  # noqa: S101 - it was started with one
    try:
        send(worker.stdin, message, body)
    except OSError as error:
        raise _ended(worker) from error


def _hear(worker: subprocess.Popen[bytes]) -> tuple[Message, bytes]:
    assert worker.stdout is not None  # noqa: S101 - it was started with one
    heard = receive(worker.stdout)
    if heard is None:
        raise _ended(worker)
    return heard


def _ended(worker: subprocess.Popen[bytes]) -> FederationFailed:
    return FederationFailed(
        "a process of the simulation ended",
        got=f"exit status {worker.wait()}",
        next_step="Read what it said above. If it was killed for want of memory, use fewer --workers.",
    )
