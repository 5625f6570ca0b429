"""A federation of real processes whose patients can be recognised: nothing of them is in what the coordinator has.

Everything that left each gate, everything in the coordinator's folders, and all that any process on the far side
logged is searched. Then a leak of every kind is planted in each of these channels, and every one is found.
"""

import hashlib
import json
import os
import socket
import struct
import threading

import numpy as np
import pytest
from leak_scan import FLOATS, HASHES, PACKERS, Needles, encodings, text_forms

from fedhealth.demo.federation import point_node, set_up
from fedhealth.processes import Processes
from fedhealth.records.table import prepare_records, read_table
from fedhealth.study.protocol import load_study

pytestmark = pytest.mark.processes

MARK, FRACTION = "QXKZJWVHPY", ".5926535"
"""Begins every patient's name; ends every number."""
PATIENTS, COLUMNS = 60, ("age", "weight", "pulse", "dose")
SITES = ("north", "south")


def rows_of(site):
    """Return the patients of a site: name, four numbers as they stand in the table, ill or not."""
    draw = np.random.default_rng(SITES.index(site))
    for number in range(PATIENTS):
        values = [f"{whole}{FRACTION}" for whole in draw.integers(20, 90, len(COLUMNS))]
        yield f"{MARK}-{site}-{number}", values, number % 2


def make_sites(folder):
    for site in SITES:
        here = folder / "sites" / site
        here.mkdir(parents=True)
        lines = [f"{name},{','.join(values)},{ill}" for name, values, ill in rows_of(site)]
        (here / "patients.csv").write_text("\n".join([f"id,{','.join(COLUMNS)},ill", *lines]) + "\n")
        (here / "site.toml").write_text(
            f'id = "{site}"\ntitle = "{site}"\n[data_set]\nname = "ward"\nfile = "patients.csv"\n'
            f'patient_column = "id"\ndeclared_patients = {PATIENTS}\n'
        )
        (here / "policy.toml").write_text(
            'tasks = ["diagnosis"]\npurposes = ["scientific-research"]\n'
            'researchers = ["demo"]\nmin_patients_a_side = 2\n'
            "max_epsilon_a_study = 2.5\n[budget.ward]\nepsilon = 5.0\ndelta = 1e-4\n"
        )
    features = "".join(
        f'[[features]]\nkind = "number"\ncolumn = "{name}"\nunit = "1"\nrange = [0, 100]\nimpute = 50\n'
        for name in COLUMNS
    )
    (folder / "protocol.toml").write_text(
        'format = 1\nname = "canaries"\ntitle = "Canaries"\ntask = "diagnosis"\npurpose = "To look for leaks."\n'
        'legal_basis = "Made-up records."\ndata_set = "ward"\nmax_records_per_patient = 1\n'
        '[endpoint]\nkind = "binary"\ncolumn = "ill"\npositive_above = 0\npositive = "is ill"\n'
        '[model]\nkind = "logistic-regression"\n'
        "[training]\nrounds = 3\nlearning_rate = 1.0\nl2_clip_norm = 1.0\n[evaluation]\nheld_out_fraction = 0.25\n"
        '[privacy]\nunit = "patient"\ndelta = 1e-4\ntraining_epsilon = 2.0\nevaluation_epsilon = 2.0\n' + features
    )


class Tap:
    """Stands between a node and its gate, and keeps every byte that the gate says."""

    def __init__(self, path):
        self.said, self._gate = bytearray(), path.with_name("real.sock")
        path.rename(self._gate)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            node, _ = self._listener.accept()
            gate = socket.socket(socket.AF_UNIX)
            gate.connect(str(self._gate))
            for source, target, kept in ((node, gate, None), (gate, node, self.said)):
                threading.Thread(target=self._pump, args=(source, target, kept), daemon=True).start()

    @staticmethod
    def _pump(source, target, kept):
        try:
            while part := source.recv(1 << 16):
                if kept is not None:
                    kept += part
                target.sendall(part)
        except OSError:
            return
        finally:
            target.close()


@pytest.fixture(scope="module")
def needles(tmp_path_factory):
    """Everything that a patient of either site could be recognised by."""
    folder = tmp_path_factory.mktemp("needles")
    make_sites(folder)
    study, texts, rows = load_study(folder / "protocol.toml"), [], []
    for site in SITES:
        for name, values, _ in rows_of(site):
            texts += [name, *values]
            rows.append([float(value) for value in values])
        table = read_table(folder / "sites" / site / "patients.csv", strict=True)
        for side in prepare_records(table, study, "id", bytes(32), strict=True):
            rows += side.features.tolist()
    return Needles([MARK, FRACTION], texts, rows)


@pytest.fixture(scope="module")
def channels(tmp_path_factory):
    """Run the federation; return what the coordinator's side got, wrote and logged, by channel."""
    folder = tmp_path_factory.mktemp("leaks")
    make_sites(folder)
    federation = set_up(folder / "run", folder / "protocol.toml", folder / "sites")
    with Processes(federation.logs) as processes:
        for site in federation.sites:
            processes.start(f"{site.file.id}-gate", ["site", "gate", str(site.folder), "--state", str(site.state.root)])
        arguments = ["--home", str(federation.home.root), "--out", str(federation.results)]
        run = ["coordinator", "run", str(federation.signed_study), *arguments]
        coordinator = processes.start("coordinator", run, events=True)
        first = coordinator.process.stdout.readline()
        taps = {}
        for site in federation.sites:
            point_node(site, f"127.0.0.1:{json.loads(first)['port']}")
            processes.wait_for(site.state.socket, 60)
            taps[site.file.id] = Tap(site.state.socket)
            processes.start(f"{site.file.id}-node", ["site", "node", "--state", str(site.state.root)])
        events = first + coordinator.process.stdout.read()
        assert coordinator.process.wait(60) == 0, (federation.logs / "coordinator.log").read_text()
    found = {f"got from {site}": bytes(tap.said) for site, tap in taps.items()}
    found["said on standard output"] = events
    places = [federation.home.root, federation.results, *(site.state.node for site in federation.sites)]
    for path in sorted(path for place in places for path in place.rglob("*") if path.is_file()):
        found[f"wrote {path.relative_to(federation.folder)}"] = path.read_bytes()
    for path in sorted(federation.logs.glob("*.log")):  # the gates' too
        found[f"logged {path.name}"] = path.read_bytes()
    return found


def test_everything_that_crosses_the_border_is_searched(channels):
    # Four rounds' worth of releases from each site: 3 of training, each 5 numbers, and one table.
    assert all(channels[f"got from {site}"].count(b'"kind":"release"') == 4 for site in SITES)
    assert b"evaluated" in channels["said on standard output"]
    written = {name for name in channels if name.startswith("wrote")}
    assert {"wrote results/model.safetensors", "wrote results/evidence.json", "wrote results/report.html"} <= written
    assert {"logged coordinator.log", "logged north-gate.log", "logged north-node.log"} <= set(channels)
    assert any("witness" in name for name in written)


def test_a_normal_run_has_nothing_of_a_patient_in_it(channels, needles):
    assert {name: sorted(needles.find(data)) for name, data in channels.items() if needles.find(data)} == {}
    assert len(needles) > 10_000


def plants():
    """Yield, by name, what a leak of one patient of each site could look like."""
    for site in SITES:
        name, values, _ = list(rows_of(site))[17]
        line = f"{name},{','.join(values)}"
        for charset, raw in text_forms(line):
            for encoding, form in encodings(raw):
                yield f"{site}: line, {charset}, {encoding}", form
        for kind in FLOATS:
            row = np.array([float(value) for value in values], dtype=kind).tobytes()
            for encoding, form in encodings(row):
                yield f"{site}: row, {kind}, {encoding}", form
        one = struct.pack("<d", float(values[2]))
        yield f"{site}: one number of 64 bits", one
        yield f"{site}: two numbers of 32 bits", struct.pack(">2f", float(values[1]), float(values[2]))
        for hashing in HASHES:
            for whole in (name, values[0]):
                digest = hashlib.new(hashing, whole.encode())
                yield f"{site}: {hashing} of {whole}", digest.digest()
                yield f"{site}: {hashing} of {whole}, hex", digest.hexdigest().encode()
        for packing, pack in PACKERS.items():
            yield f"{site}: line, {packing}", pack(line.encode())
            yield f"{site}: row, {packing}", pack(np.array([float(value) for value in values]).tobytes())


def test_every_planted_leak_is_found_in_every_channel(channels, needles):
    planted = dict(plants())
    missed = []
    for number, (channel, data) in enumerate(channels.items()):
        for place, (name, leak) in enumerate(planted.items()):
            # In the middle of something long, at another place and alignment each time.
            middle = (place * 7 + number) % max(1, min(len(data), 2000))
            around = data[max(0, middle - 100) : middle], data[middle : middle + 100]
            if not needles.find(b" ".join((around[0], leak, around[1]))):
                missed.append((channel, name))
    assert missed == []
    assert len(channels) * len(planted) > 2_000


def test_chance_finds_nothing(needles):
    assert needles.find(os.urandom(1 << 20)) == set()
