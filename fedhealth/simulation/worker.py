"""A process that computes some sites of a simulation: gates in memory, answers on standard output.

Run as `python -m fedhealth.simulation.worker`; it ends when its standard input does.
"""

import gc
import logging
import os
import sys
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.flower.link_grid import NotReleased
from fedhealth.records.table import Table
from fedhealth.simulation.gates import SimulatedSite, SiteGroup
from fedhealth.simulation.pipes import (
    Answers,
    AskHeads,
    AskSites,
    Done,
    Heads,
    Open,
    SiteRecords,
    WriteLedgers,
    receive,
    send,
)
from fedhealth.training.per_patient import make_deterministic


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the questions end."""
    group: SiteGroup | None = None
    while (question := receive(questions)) is not None:
        message, body = question
        if isinstance(message, Open):
            group = _open(message)
            send(answers, Done())
            continue
        if group is None:
            raise ValueError("a worker is told its sites first")
        if isinstance(message, AskSites):
            found = group.releases(message.step, message.round, _inputs(message, body))
            lengths = {site: one.code if isinstance(one, NotReleased) else len(one) for site, one in found.items()}
            send(answers, Answers(sites=lengths), b"".join(one for one in found.values() if isinstance(one, bytes)))
        elif isinstance(message, AskHeads):
            send(answers, Heads(sites=group.heads()))
        elif isinstance(message, WriteLedgers):
            group.write_ledgers(Path(message.path))
            send(answers, Done())


def _inputs(message: AskSites, body: bytes) -> dict[str, bytes]:
    return {site: body[at * message.length : (at + 1) * message.length] for site, at in message.sites.items()}


def _open(message: Open) -> SiteGroup:
    researcher = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(message.researcher))
    return SiteGroup(message.study, [_site(each) for each in message.sites], researcher)


def _site(records: SiteRecords) -> SimulatedSite:
    return SimulatedSite(
        file=records.file,
        table=Table(records.file.data_set.file, records.columns, records.rows, row_word=records.row_word),
        split_key=bytes.fromhex(records.split_key),
        noise_seed=records.noise_seed,
        naming_secret=bytes.fromhex(records.naming_secret),
    )


if __name__ == "__main__":
    make_deterministic()
    gc.freeze()  # torch is not searched for garbage again: half a second when this ends
    # Whoever started this has said that the noise is known; each process need not say it again.
    logging.getLogger("fedhealth.privacy.stream").setLevel(logging.ERROR)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not print between the answers
    serve(sys.stdin.buffer, replies)
