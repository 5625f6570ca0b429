"""One site and one coordinator in one process, whose ledger can be copied, put back and recovered.

Everything is the real thing but the link: a site's state folder, its gate, the coordinator's asker and witness.
"""

import asyncio
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedhealth.cli.site import app
from fedhealth.coordinator.asking import Asker, NoRelease
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.errors import LinkUnavailable
from fedhealth.link.frames import unpack_request
from fedhealth.privacy.entries import WitnessRule
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.privacy.verify import verify_ledger
from fedhealth.site.gate_process import SYSTEM_CLOCK, open_gate
from fedhealth.site.recovery import examine_recovery, recover_ledger

DATA = bytes(24)  # three weights of zero


class Pair:
    """One site and one coordinator in this process; each can be stopped, copied, put back and started again."""

    def __init__(self, here, study, root, compute):
        self.here, self.study, self.root, self.compute = here, study, root, compute
        self.gate = None
        here.approve(study, compute)
        self.home = root / "witnessed"
        self.home.mkdir()
        self.cut = lambda kind: False
        self.start_coordinator()
        self.start_gate()

    def start_coordinator(self):
        pinned = {"ward-a": PinnedSite(ledger_key=self.ledger_key)}
        self.asker = Asker(self.carry, Witness(self.home, pinned, self.here.witness))

    @property
    def ledger_key(self):
        return self.here.state.ledger_key().public_key().public_bytes_raw().hex()

    def start_gate(self):
        self.stop_gate()
        self.gate, self.ledger = open_gate(
            self.here.folder, self.here.state, {"train": self.compute, "evaluate": self.compute}, SYSTEM_CLOCK
        )

    def stop_gate(self):
        if self.gate is not None:
            self.ledger.close()
            self.gate = None

    async def carry(self, site, frame):
        if self.cut(unpack_request(frame)[0].kind):
            raise LinkUnavailable("cut")
        return self.gate.handle(frame).frame

    def meet(self):
        return asyncio.run(self.asker.head("ward-a"))

    def ask(self, number=1, step="train"):
        identity = ReleaseIdentity(
            site="ward-a", study=self.study.digest, step=step, round=number, input_digest=input_digest(DATA)
        )
        return asyncio.run(self.asker.ask(identity, DATA))

    def refused(self, what):
        with pytest.raises(NoRelease) as caught:
            what()
        return caught.value.code

    # Copies of the state, and putting them back

    def copy(self, name, *files):
        """Keep files of the stopped gate as they are now; the ledger alone if none is named."""
        kept = self.root / name
        kept.mkdir()
        for file in files or ("ledger.sqlite",):
            if (self.here.state.gate / file).exists():
                shutil.copy2(self.here.state.gate / file, kept)
        return kept

    def put_back(self, kept):
        self.stop_gate()
        for suffix in ("-wal", "-shm"):
            self.here.state.ledger.with_name("ledger.sqlite" + suffix).unlink(missing_ok=True)
        for file in kept.iterdir():
            shutil.copy2(file, self.here.state.gate)

    def recover(self):
        self.stop_gate()
        found = examine_recovery(self.here.folder, self.here.state)
        if found is not None:
            recover_ledger(self.here.folder, self.here.state, found)
        return found

    def entries(self):
        self.stop_gate()
        ledger = Ledger.open(self.here.state.ledger, "ward-a", self.here.state.ledger_key())
        found = (
            [entry for entry, _ in ledger.history()],
            {each: ledger.row(each).state for each in ledger.account.reserved},
        )
        ledger.close()
        return found

    def spent(self):
        return {(line.cohort, line.share_spent) for line in verify_ledger(self.here.state.gate).spending}


ALL = ("ledger.sqlite", "ledger.anchor", "members")


@contextmanager
def in_memory():
    """A folder where a flush costs nothing, if there is one: what is durable is what was written before the cut."""
    memory = Path("/dev/shm")  # noqa: S108 - folders in it are made by tempfile
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def forked(pair):
    """Let two histories come about: something writes to an older copy behind the gate's back."""
    pair.ask(1)
    pair.stop_gate()
    kept = pair.copy("older", *ALL)
    pair.start_gate()
    pair.ask(2)
    pair.meet()
    pair.put_back(kept)
    ledger = Ledger.open(pair.here.state.ledger, "ward-a", pair.here.state.ledger_key())
    for wait in (1, 2, 3, 4, 5):
        ledger.append(WitnessRule(witness="required", wait_seconds=wait, at=0))
    ledger.close()


def rolled_back(pair, files=(), rounds=2):
    """Let a pair go through rounds, and put back what it had after the first."""
    pair.ask(1)
    pair.meet()
    pair.stop_gate()
    kept = pair.copy("older", *files)
    pair.start_gate()
    for number in range(2, 2 + rounds):
        pair.ask(number)
    pair.meet()
    spent = pair.spent()
    pair.put_back(kept)
    return spent


class PowerCut(BaseException):
    """Ends the process wherever it is."""


@contextmanager
def power_cut(owner, name, moment):
    """Cut the power before or after whatever calls this method of an owner; it is called."""
    whole = getattr(owner, name)

    def cut(*arguments):
        if moment == "after":
            whole(*arguments)
        raise PowerCut

    with pytest.MonkeyPatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(owner, name, cut)
        yield


def run(*arguments, answer=""):
    return CliRunner().invoke(app, [str(each) for each in arguments], input=answer)
