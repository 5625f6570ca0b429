"""Counts between hospitals: how long they take, what crosses while they are asked, and what attacks on them learn.

1. Five hospitals as real processes, of which one asks the other four: 1,000 queries, 50 of them distinct, by two
   askers, nine a second (a site may ask its coordinator ten times). Prints the p95 once all is warm, from the asker's
   socket to the answer, less the longest public `reply_after` of a gate; and whether repeats had the same answer.
2. Each patient's letter holds a name and a patient key that were planted, and each has a vector. Looks for names, keys
   (as they are, in capitals, hexadecimal and base64) and vectors (16, 32 and 8 bits) in all that passed: each gate's
   socket in the clear, the coordinator's port, questions and answers; and in every file of the coordinator, of the
   nodes, of the gates but their index, and every log.
3. The same while the five train a model together: a gate does one thing at a time, so a count waits for a round.
4. Attacks on one patient (`count_attacks`).

Run: .venv/bin/python benchmarks/counts.py [--queries 1000]
"""

import argparse
import base64
import json
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
from count_attacks import EPSILON as ATTACKED_EPSILON
from count_attacks import attack_counts
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from wire_tap import Tap, tap_port, tap_socket

from fedhealth.canonical import canonical_bytes
from fedhealth.coordinator.count_desk import offer_search
from fedhealth.coordinator.research_client import list_studies, submit_study
from fedhealth.coordinator.research_frames import SOCKET_FILE
from fedhealth.demo.federation import DemoSite, Federation, point_node, set_up
from fedhealth.errors import LinkUnavailable
from fedhealth.learning.steps import STEPS
from fedhealth.link.counts import CountAnswer, pack_answer
from fedhealth.processes import Processes
from fedhealth.search.documents import Code, Document, Passage, ReadDocument
from fedhealth.search.index import SearchIndex
from fedhealth.signing import load_signing_key, public_key_hex
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.askers import asking_key_of
from fedhealth.site.count_port import ask_elsewhere
from fedhealth.study.count_query import CountQuery, count_query, quarter_of, sign_query, vouch
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import sign_study

ROOT = Path(__file__).resolve().parents[1]
TARGET_SECONDS = 0.1
PATIENTS = 1000
NAME, KEY = "Zyxwortharbour", "Qqvmedrecord"
"""Each patient's name and key begin so."""
EPSILON = 0.05
DISTINCT = 50
EVERY_SECONDS = 0.111
DIMENSIONS = 64
NEEDLE_BYTES = 8
"""So many bytes of a vector, wherever they stand, are taken for the vector."""


class RandomVectors:
    """Makes vectors that mean nothing: only whether they leave is looked at."""

    name, dimensions = "random", DIMENSIONS

    def __init__(self) -> None:
        self._generator = np.random.default_rng(1)
        self.made: list[NDArray[np.float32]] = []

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector of length 1 for each text."""
        found = self._generator.normal(size=(len(texts), DIMENSIONS))
        self.made.append((found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32))
        return self.made[-1]


def main() -> None:
    """Print all figures beside what they must reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    queries = parser.parse_args().queries
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    try:
        ask_across(folder, queries)
    finally:
        shutil.rmtree(folder)
    attack_counts(search_study("ward", "2026-Q4", "0" * 64, ATTACKED_EPSILON))


def ask_across(folder: Path, queries: int) -> None:
    """Ask the other four hospitals, and look for what must not be there."""
    encoder = RandomVectors()
    federation, study = founded(folder, encoder)
    asking = federation.sites[0]
    askers = [Ed25519PrivateKey.generate() for _ in range(2)]
    quarter = quarter_of(time.time_ns() // 10**6)
    certificates = [
        vouch(asking.file.id, public_key_hex(key.public_key()), "clinician", quarter, asking_key_of(asking.state))
        for key in askers
    ]
    seconds: list[float] = []
    answers: dict[CountQuery, CountAnswer] = {}
    different, handed = 0, bytearray()
    with Processes(federation.logs) as processes, ExitStack() as ends:
        ciphered, *plain = serve(federation, processes, ends)
        for number in range(queries):
            query, who = count_query(quarter, (f"icd10:A{number % DISTINCT:02}",)), number // DISTINCT % 2
            signed = canonical_bytes(
                sign_query(study.digest, query, study.purpose_class, certificates[who], askers[who])
            )
            started = time.perf_counter()
            answer = patiently(lambda: ask_elsewhere(asking.state.counts_socket, signed), number)  # noqa: B023
            seconds.append(time.perf_counter() - started)
            different += answers.setdefault(query, answer) != answer
            handed += signed + pack_answer(answer)
            if number % 100 == 99:
                print(f"  {number + 1} of {queries} asked", file=sys.stderr, flush=True)
            time.sleep(max(0.0, EVERY_SECONDS - seconds[-1]))
        beside, unanswered = ask_beside_a_study(federation, lambda: ask_elsewhere(asking.state.counts_socket, signed))
        public = max(reply_seconds(site, study) for site in federation.sites[1:])
    print(f"{queries} queries to 4 hospitals, {len(answers)} distinct: {different} repeats had another answer")
    print_times(seconds, public)
    shown = f"median {statistics.median(beside) * 1e3:.0f} ms, longest {max(beside) * 1e3:.0f} ms"
    print(f"beside a study that is run: {len(beside)} repeats, {shown}; {unanswered} without an answer of all")
    passed = {
        "in the clear at the gates": b"".join(bytes(each) for tap in plain for each in (tap.to, tap.back)),
        "at the coordinator's port": bytes(ciphered.to + ciphered.back),
        "at the asker's socket": bytes(handed),
    }
    for where, data in passed.items():
        print(f"{where}: {len(data):,} bytes; {judged(found_in([data], encoder))}")
    places = [federation.home.root, federation.logs, *(site.state.root for site in federation.sites)]
    files = [
        path
        for each in places
        for path in each.rglob("*")
        if path.is_file() and not any(path.is_relative_to(site.state.index) for site in federation.sites)
    ]
    print(f"{len(files)} files and logs: {judged(found_in((path.read_bytes() for path in files), encoder))}")
    indexed = (path.read_bytes() for path in federation.sites[1].state.index.rglob("*") if path.is_file())
    strings, vectors = found_in(indexed, encoder)
    print(f"in one hospital's index, where they are, the same search finds {strings} strings and {vectors} vectors")


def ask_beside_a_study(federation: Federation, ask: Callable[[], CountAnswer]) -> tuple[list[float], int]:
    """Have the federation train its model, and return how long counts take meanwhile, and how many lack a hospital."""
    socket = federation.home.root / SOCKET_FILE
    study = submit_study(socket, federation.signed_study.read_bytes()).study
    seconds: list[float] = []
    unanswered, deadline = 0, time.monotonic() + 120
    while time.monotonic() < deadline:
        state = next(each.state for each in list_studies(socket) if each.study == study)
        if state == "running":
            started = time.perf_counter()
            unanswered += bool(ask().absent)
            seconds.append(time.perf_counter() - started)
        elif state in ("done", "stopped"):
            break
        time.sleep(EVERY_SECONDS)
    return seconds, unanswered


def print_times(seconds: Sequence[float], public: float) -> None:
    """Print how long counts took, the first one of a query and its repeats."""
    for words, taken in (("new counts", seconds[1:DISTINCT]), ("repeats", seconds[DISTINCT:])):
        if taken:
            p95 = sorted(taken)[-(-95 * len(taken) // 100) - 1] - public
            print(
                f"{words}: median {statistics.median(taken) * 1e3:.0f} ms, of which reply_after {public * 1e3:.0f}; "
                f"p95 beyond it {p95 * 1e3:.0f} ms  (at most {TARGET_SECONDS * 1e3:.0f}) {p95 <= TARGET_SECONDS}"
            )


def reply_seconds(site: DemoSite, study: SearchStudy) -> float:
    """Return after how long a site's gate answers, which is public."""
    with site.state.copied_ledger(site.file.id) as ledger:
        return ledger.account.approved[study.digest].reply_after_ms["count"] / 1e3


def judged(found: tuple[int, int]) -> str:
    """Say what was found where nothing may be."""
    return f"{found[0]} planted strings, {found[1]} vectors  (target: 0, 0) {found == (0, 0)}"


def found_in(parts: Iterable[bytes], encoder: RandomVectors) -> tuple[int, int]:
    """Return how often planted strings and vectors are found."""
    strings = vectors = 0
    sought = np.unique(np.concatenate([beginnings(each) for each in encoder.made]))
    for data in parts:
        strings += sum(data.count(each) for word in (NAME, KEY) for each in spelled(word))
        for offset in range(NEEDLE_BYTES):
            whole = data[offset : offset + (len(data) - offset) // NEEDLE_BYTES * NEEDLE_BYTES]
            vectors += int(np.isin(np.frombuffer(whole, np.uint64), sought).sum())
    return strings, vectors


def spelled(word: str) -> Iterator[bytes]:
    """Yield a word as it may be written: also in capitals, in hexadecimal, and within a text in base64."""
    for each in {word, word.lower(), word.upper()}:
        raw = each.encode()
        yield from (raw, raw.hex().encode(), each.encode("utf-16-le"))
        for shift in range(3):  # whatever stands before it; ends that share a character with a neighbour are left off
            yield base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : (shift + len(raw)) // 3 * 4]


def beginnings(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return the first bytes of vectors in each precision that the program knows, as whole numbers."""
    forms = (vectors, vectors.astype(np.float16), np.round(vectors * 127).astype(np.int8))
    firsts = (np.ascontiguousarray(each[:, : NEEDLE_BYTES // each.itemsize]).view(np.uint64) for each in forms)
    return np.concatenate([each.ravel() for each in firsts])


def patiently(ask: Callable[[], CountAnswer], number: int) -> CountAnswer:
    """Ask; the first query waits until every hospital is there."""
    deadline = time.monotonic() + 90
    while True:
        try:
            answer = ask()
            if not answer.absent and not answer.refused:
                return answer
        except LinkUnavailable:
            answer = CountAnswer()
        if number or time.monotonic() > deadline:
            raise SystemExit(f"query {number} was not answered by all: {answer}")
        time.sleep(0.3)


def founded(folder: Path, encoder: RandomVectors) -> tuple[Federation, SearchStudy]:
    """Make five hospitals with indexes, four of which approved a search study."""
    names = [path.name for path in sorted((ROOT / "sites").iterdir()) if (path / "site.toml").exists()]
    for name in names:
        shutil.copytree(ROOT / "sites" / name, folder / "sites" / name)
    shutil.copytree(ROOT / "sites" / names[0], folder / "sites" / "asking")
    own = folder / "sites" / "asking" / "site.toml"
    own.write_text(own.read_text().replace(f'id = "{names[0]}"', 'id = "asking"'))
    for policy in folder.glob("sites/*/policy.toml"):
        text = policy.read_text().replace('tasks = ["diagnosis"', 'tasks = ["search", "diagnosis"')
        policy.write_text(text.replace("epsilon = 3.0\n", "epsilon = 20.0\n").replace("a_study = 2.5", "a_study = 15"))
    federation = set_up(folder / "run", ROOT / "protocols" / "heart-disease-diagnosis.toml", folder / "sites")
    now = datetime.now(UTC)
    quarter = f"{now.year}-Q{(now.month + 2) // 3}"
    key = public_key_hex(asking_key_of(federation.sites[0].state).public_key())
    study = search_study(federation.sites[0].file.data_set.name, quarter, key, EPSILON)
    signed = sign_study(study, load_signing_key(folder / "run" / "state" / "researcher.key"))
    offer_search(federation.home.searches, signed)
    for site in federation.sites[1:]:
        fill(site, encoder)
        approve_study(site.folder, site.state, examine_study(site.folder, site.state, signed, STEPS))
    return federation, study


def search_study(data_set: str, quarter: str, key: str, epsilon: float) -> SearchStudy:
    """Return a search study for what is measured here."""
    return SearchStudy.model_validate(
        {
            "format": 1,
            "name": "counts",
            "title": "Counts",
            "task": "search",
            "purpose": "To measure.",
            "legal_basis": "Made-up letters.",
            "data_set": data_set,
            "first_quarter": quarter,
            "last_quarter": "2099-Q4",
            "roles": ["clinician"],
            "asking_sites": [{"site": "asking", "key": key}],
            "counts": {"epsilon": epsilon, "most": 100, "most_of_an_asker": 100, "least_shown": 1},
            "delta": 1e-5,
        }
    )


def fill(site: DemoSite, encoder: RandomVectors) -> None:
    """Give a site an index of letters, with a planted name and key in each, and vectors."""
    letters = [
        Document(
            key=f"letter-{number}",
            patient=f"{KEY}{number}",
            kind="letter",
            title=f"{NAME}{number}",
            text=f"A letter about {NAME}{number}.",
            date=date(2026, 1, 1),
            age=70,
            codes=tuple(Code("icd10", f"A{(number + place) % DISTINCT:02}") for place in range(20)),
            source="letters",
        )
        for number in range(PATIENTS)
    ]
    with SearchIndex.open(site.state.index, create=True) as index:
        index.add(letters, lambda letter: ReadDocument("en", (), (whole(letter),), ()))
        index.fill_vectors(encoder)


def whole(letter: Document) -> Passage:
    """Return a letter as its one passage."""
    return Passage(letter.key, 0, "", 0, len(letter.text), letter.text)


def serve(federation: Federation, processes: Processes, ends: ExitStack) -> list[Tap]:
    """Start the coordinator, and a gate and a node for each hospital, with a tap before the first and each gate."""
    command = ["coordinator", "serve", "--home", str(federation.home.root), "--address", "127.0.0.1:0"]
    coordinator = processes.start("coordinator", [*command, "--enrolment", "127.0.0.1:0"], events=True)
    assert coordinator.process.stdout is not None
    tap, port = tap_port(json.loads(coordinator.process.stdout.readline())["port"])
    taps = [tap]
    for site in federation.sites:
        point_node(site, f"127.0.0.1:{port}")
        processes.start(f"{site.file.id}-gate", ["site", "gate", str(site.folder), "--state", str(site.state.root)])
    for site in federation.sites:
        taps.append(tap_socket(site.state.socket))
        processes.start(f"{site.file.id}-node", ["site", "node", "--state", str(site.state.root)])
    for each in taps:
        ends.callback(each.close)
    return taps


if __name__ == "__main__":
    main()
