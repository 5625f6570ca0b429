"""Certificates that change during a run: sites that renew all the time, asked round after round over real sockets.

Every site believes that its certificates are nine hours old, so it renews them, with new keys, as soon as it has them,
and its link changes over each time. A round asks every site one question of a megabyte; a question that crosses with a
change-over is asked again, as a study's run does. A round is lost when a site did not answer within a minute.

Run: .venv/bin/python benchmarks/rotation.py [--rotations 100]
"""

import argparse
import asyncio
import contextlib
import logging
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from revocation import LEDGER_KEY, founded

from fedhealth.coordinator.border import Border
from fedhealth.coordinator.home import CoordinatorHome, admit_site
from fedhealth.link.services import PeerAway, service_of
from fedhealth.pki.certificates import make_key
from fedhealth.pki.identity import ROOT_FILE, read_identity, store_identity
from fedhealth.pki.profiles import Role
from fedhealth.site.node_file import NodeFile
from fedhealth.site.renewing import keep_linked

SITES = ("cleveland", "hungary", "long-beach", "switzerland")
BODY = bytes(2**20)
PATIENCE_SECONDS = 60.0


class RenewingSite:
    """One site that renews all the time, and answers what it is asked with the same bytes."""

    def __init__(self, folder: Path, home: CoordinatorHome, site: str) -> None:
        self.folder, self.site, self.busy = folder, site, 0
        self.serials: set[int] = set()
        folder.mkdir()
        keys = [make_key("P-256") for _ in range(2)]
        chains = admit_site(home, site, keys[0].public_key(), keys[1].public_key(), LEDGER_KEY, datetime.now(UTC))
        for role, key, chain in zip((Role.SITE, Role.RENEWAL), keys, chains, strict=True):
            store_identity(folder, role, key, chain)
        (folder / ROOT_FILE).write_bytes(home.open_authority().root_pem)

    async def answer(self, body: bytes) -> bytes:
        """Answer after a moment, and be busy meanwhile."""
        self.busy += 1
        try:
            await asyncio.sleep(0.01)
            return body
        finally:
            self.busy -= 1
            self.serials.add(read_identity(self.folder, Role.SITE).leaf.serial_number)

    async def run(self, address: str) -> None:
        """Keep linked and renew."""
        await keep_linked(
            self.folder,
            NodeFile(site=self.site, federation="bench", coordinator=address),
            {"echo": service_of(self.answer, len(BODY))},
            lambda _: None,
            lambda: not self.busy,
            clock=lambda: datetime.now(UTC) + timedelta(hours=9),
            look_seconds=0.05,
        )


async def measure(folder: Path, rotations: int) -> None:
    """Run rounds until there were enough rotations, and print what became of them."""
    home = founded(folder)
    sites = [RenewingSite(folder / name, home, name) for name in SITES]
    border, again, lost = Border(home), 0, 0
    address = f"127.0.0.1:{await border.start('127.0.0.1:0')}"
    tasks = [asyncio.create_task(site.run(address)) for site in sites]

    async def ask(site: str) -> None:
        nonlocal again
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(PeerAway):
                    assert await border.link.ask(site, "echo", BODY, PATIENCE_SECONDS, len(BODY)) == BODY
                    return
                again += 1
                await asyncio.sleep(0.05)

    await border.link.wait_connected(SITES, PATIENCE_SECONDS)
    seconds: list[float] = []
    while sum(len(site.serials) - 1 for site in sites) < rotations:
        begin = time.perf_counter()
        results = await asyncio.gather(*map(ask, SITES), return_exceptions=True)
        lost += any(isinstance(result, BaseException) for result in results)
        seconds.append(time.perf_counter() - begin)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await border.stop()
    done = sum(len(site.serials) - 1 for site in sites)
    print(
        f"{done} rotations of {len(SITES)} sites during {len(seconds)} rounds of {len(BODY) >> 20} MiB a site each way"
    )
    print(f"a round: median {statistics.median(seconds) * 1e3:.1f} ms, worst {max(seconds) * 1e3:.1f} ms")
    print(f"questions that crossed and were asked again {again}")
    print(f"rounds lost {lost}  (target: 0 during {rotations} rotations) {lost == 0}")


def main() -> None:
    """Measure, in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotations", type=int, default=100)
    rotations = parser.parse_args().rotations
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="fedhealth-bench-") as folder:
        asyncio.run(measure(Path(folder), rotations))


if __name__ == "__main__":
    main()
