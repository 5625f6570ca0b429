"""Cut the power at every file operation of a ledger, and count the acknowledged charges that are lost.

A process lives a ledger's life (creation, approval, releases, a new key, a restart) on a disk that records
(`simulated_disk`). From the record follow the images a power cut can leave at each operation. Each is opened by the
ledger as it ships: every acknowledged state of every release must be there, the audit must verify it, and a further
charge must work. Half the images come from a second life that starts from an image of the first, with a log to
recover. A ledger that syncs nothing (`OFF`), or its log only when it moves it, which it never does (`NORMAL`), must
show losses; else the images would prove nothing.

Run: .venv/bin/python benchmarks/power_cuts.py [--images 10000]
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
import made_up_site as site
from simulated_disk import CUTS, Disk, Image, Operation, RecordingDisk, say

import fedhealth.privacy.ledger_database
from fedhealth.errors import FedHealthError
from fedhealth.privacy.acts import KeyRotated, Paused, Unpaused
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.rotation import sign_rotation
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex

STUDY = site.study_named("cut")
NAME = "ledger.sqlite"
RELEASES = 12
STATES = ("reserved", "witnessed", "stored", "sent")

FAULTS = ("lost", "refused", "stuck")
"""An acknowledged state is gone; the audit or the ledger refuses the image; a further charge fails."""

SETTINGS = {"full": "as it ships", "normal": "NORMAL, log not moved into the file", "off": "OFF"}

States = dict[int, str]
"""How far each release was acknowledged to be, by its number; -1 is the approval, -2 the rotation of the key."""


def record(folder: Path, setting: str) -> None:
    """Live a ledger's life in `folder`, from whatever stands there, and say all that happens to its disk."""
    RecordingDisk(folder)
    weaken(setting)
    path = folder / NAME
    if not path.exists():
        ledger = site.create(path)
        ledger.append(site.approval(STUDY, 10 * RELEASES))
        say("acknowledge", state="approved", release=-1)
    else:
        ledger = Ledger.open(path, site.SITE, site.KEY, site.NEXT_KEY)
    first = len(ledger.account.reserved)
    for number in range(first, first + RELEASES):
        entry = site.charge(STUDY, number)
        ledger.reserve(entry)
        say("acknowledge", state="reserved", release=number)
        ledger.witness(site.receipt(ledger))
        say("acknowledge", state="witnessed", release=number)
        ledger.begin(entry.release)
        notes = [JournalNote(kind="alert", text="train: patients counted as zero", at=number)]
        ledger.store(entry.release, payload(number), notes * (number % 3))
        say("acknowledge", state="stored", release=number)
        ledger.witness(site.receipt(ledger, [entry.release] * (number % 2)))
        if number % 2:
            say("acknowledge", state="sent", release=number)
        if number == RELEASES // 4:
            rotate(ledger)
        if number == first + RELEASES // 2:
            ledger.close()
            ledger = Ledger.open(path, site.SITE, site.KEY, site.NEXT_KEY)
    ledger.close()


def rotate(ledger: Ledger) -> None:
    """Pause the site, change the key that signs its ledger, and let it go on."""
    ledger.append(Paused(by="ada", at=3))
    rotation = sign_rotation(site.SITE, site.KEY, site.NEXT_KEY)
    ledger.rotate(KeyRotated(rotation=rotation, by="ada", at=4), site.NEXT_KEY)
    say("acknowledge", state="rotated", release=-2)
    ledger.append(Unpaused(by="ada", at=5))


def weaken(setting: str) -> None:
    """Make the ledger less durable than it is, to see that the loss is found."""
    if setting != "full":

        def prepare(database: apsw.Connection) -> None:
            database.pragma("locking_mode", "exclusive")
            database.pragma("journal_mode", "wal")
            database.pragma("synchronous", setting)

        fedhealth.privacy.ledger_database.prepare = prepare
        Ledger._settle = lambda self: None


def payload(number: int) -> bytes:
    """Return what release `number` consists of: for some a page, for some more."""
    return bytes([number % 256]) * (500 + 2000 * (number % 4))


def images(life: list[Operation], start: Image, before: States, count: int) -> Iterator[tuple[Image, States]]:
    """Yield so many distinct images, from all over a life, each with what was acknowledged until then."""
    seen: set[bytes] = set()
    step = max(1, len(life) // count)
    for turn in range(200):
        disk, acknowledged = Disk(start), dict(before)
        for number, operation in enumerate(life):
            if operation["kind"] == "acknowledge":
                acknowledged[operation["release"]] = operation["state"]
            else:
                disk.apply(operation)
            which, rest = divmod(number + turn, step)
            if rest or operation["kind"] == "find":
                continue
            draw = random.Random(1000 * number + turn)  # noqa: S311 - by seed
            image = disk.left(CUTS[(which + turn) % len(CUTS)], draw)
            key = hashlib.sha256(repr((sorted(image.items()), acknowledged)).encode()).digest()
            if key not in seen:
                seen.add(key)
                yield image, dict(acknowledged)
            if len(seen) == count:
                return


def examine(image: Image, acknowledged: States, folder: Path) -> str:
    """Return what is wrong with an image, one of `FAULTS`, or "whole"."""
    for file in folder.iterdir():
        file.unlink()
    for name, content in image.items():
        (folder / name).write_bytes(content)
    path = folder / NAME
    try:
        if path.exists():
            verify_ledger(path)  # which also finds a release's row without a charge, and a charge without its row
            ledger = Ledger.open(path, site.SITE, site.KEY, site.NEXT_KEY)
        elif acknowledged:
            return "lost"
        else:
            ledger = site.create(path)
    except FedHealthError:
        return "refused"
    try:
        if any(is_lost(ledger, number, state) for number, state in acknowledged.items()):
            return "lost"
        if STUDY not in ledger.account.approved:
            ledger.append(site.approval(STUDY, 1))
        ledger.reserve(site.charge(STUDY, 10**6))
    except FedHealthError:
        return "stuck"
    finally:
        ledger.close()
    return "whole"


def is_lost(ledger: Ledger, number: int, state: str) -> bool:
    """Say whether a release is not as far as was acknowledged, is not charged, or has another payload."""
    if state == "approved":
        return STUDY not in ledger.account.approved
    if state == "rotated":
        return ledger.public_key != public_key_hex(site.NEXT_KEY.public_key())
    release = site.charge(STUDY, number).release
    row = ledger.row(release)
    if release not in ledger.account.reserved or row is None or STATES.index(row.state) < STATES.index(state):
        return True
    stored = b""
    if row.payload_bytes is not None:
        stored = b"".join(bytes(part) for part in ledger.payload_parts(release))
    return stored != (payload(number) if row.state == "stored" else b"")


def main() -> None:
    """Print what was found; exit with 1 if the ledger lost anything, or its weakened versions nothing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--setting", choices=SETTINGS, default="full")
    arguments = parser.parse_args()
    if arguments.record:
        record(arguments.record, arguments.setting)
        return
    print(f"{'synchronous':38} images  operations  acknowledged  {'  '.join(FAULTS)}")
    right = True
    for setting, words in SETTINGS.items():
        count = arguments.images if setting == "full" else max(50, arguments.images // 20)
        found, operations, acknowledged = cut_power(setting, count)
        faults = [found[fault] for fault in FAULTS]
        print(f"{words:38} {found.total():6d}  {operations:10d}  {acknowledged:12d}  ", end="")
        print("  ".join(f"{number:{len(fault)}d}" for fault, number in zip(FAULTS, faults, strict=True)))
        right &= found.total() == count and (not any(faults) if setting == "full" else found["lost"] > 0)
    print(f"as it ships nothing is lost, refused or stuck; weakened, losses are found (target): {right}")
    sys.exit(not right)


def cut_power(setting: str, count: int) -> tuple[Counter[str], int, int]:
    """Return what was found in so many images, the operations they were cut at, and the releases acknowledged."""
    found, releases, operations = Counter[str](), 0, 0
    start, before = {}, {}
    # What is tested is the image, not this machine's disk.
    with tempfile.TemporaryDirectory(prefix="fedhealth-power-", dir=site.MEMORY) as name:
        for part in (count // 2, count - count // 2):
            life = recorded(setting, start)
            operations += sum(operation["kind"] != "acknowledge" for operation in life)
            middle = {}, {}
            for image, acknowledged in images(life, start, before, part):
                result = examine(image, acknowledged, Path(name))
                found[result] += 1
                releases += sum(number >= 0 for number in acknowledged)
                if result == "whole" and len(acknowledged) > RELEASES // 2 and image.get(NAME + "-wal"):
                    middle = image, acknowledged
            start, before = middle
    return found, operations, releases


def recorded(setting: str, start: Image) -> list[Operation]:
    """Return what the disk was told in one life that starts from an image."""
    with tempfile.TemporaryDirectory(prefix="fedhealth-power-", dir=site.MEMORY) as name:
        folder = Path(name).resolve()
        for file, content in start.items():
            (folder / file).write_bytes(content)
        words = [sys.executable, __file__, "--record", str(folder), "--setting", setting]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
        return [json.loads(line) for line in done.splitlines()]


if __name__ == "__main__":
    main()
