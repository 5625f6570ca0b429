"""One hospital asks, two count: every step typed as the three people type it, with real processes and indexes."""

import contextlib
import io
import json
import re
import shutil
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path
from unittest import mock

import pytest

from fedhealth.cli.main import main
from fedhealth.demo.federation import point_node, set_up
from fedhealth.privacy.verify import verify_ledger
from fedhealth.processes import Processes
from fedhealth.search.documents import Code, Document, ReadDocument
from fedhealth.search.index import SearchIndex
from fedhealth.study.protocol import load_study

ROOT = Path(__file__).resolve().parents[2]
SITES = ("cleveland", "hungary", "switzerland")
NOW = datetime.now(UTC)
QUARTER = f"{NOW.year}-Q{(NOW.month + 2) // 3}"
PLANTED = "Zyxwortharbour"
"""Stands in every document, and must be in no answer, log or file that another hospital or the coordinator has."""

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture
def federation():
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    for name in SITES:
        shutil.copytree(ROOT / "sites" / name, folder / "sites" / name)
        policy = folder / "sites" / name / "policy.toml"
        allowed = policy.read_text().replace('tasks = ["diagnosis"', 'tasks = ["search", "diagnosis"')
        policy.write_text(
            allowed.replace("epsilon = 3.0\n", "epsilon = 20.0\n").replace("a_study = 2.5", "a_study = 9")
        )
    yield set_up(folder / "run", ROOT / "protocols" / "heart-disease-diagnosis.toml", folder / "sites")
    shutil.rmtree(folder)


def fedhealth(*words, code=0):
    """Type a command, in this process, and return what it says."""
    ended, said, complained = typed(words)
    assert ended == code, said + complained
    return said


def typed(words):
    said, complained = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["fedhealth", *map(str, words)]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return ended.value.code or 0, said.getvalue(), complained.getvalue()


def index_of(site, patients):
    """Give a site an index of letters, of which every second patient's states Parkinson's disease."""
    with SearchIndex.open(site.state.index, create=True) as index:
        letters = [
            Document(
                key=f"letter-{number}",
                patient=f"p{number}",
                kind="letter",
                title=PLANTED,
                text=f"Letter about {PLANTED}.",
                date=date(NOW.year, 1, 1),
                age=70,
                sex="female" if number % 2 else "male",
                codes=(Code("icd10", "G20"),) if number % 2 == 0 else (Code("icd10", "I50.1"),),
                source="letters",
            )
            for number in range(patients)
        ]
        index.add(letters, lambda _: ReadDocument("en", (), (), ()))


def test_a_clinician_of_one_hospital_learns_blurred_counts_of_the_others_and_nothing_else(federation, tmp_path):
    asking, *others = federation.sites
    for site, patients in zip(others, (400, 40), strict=True):
        index_of(site, patients)
    key = fedhealth("site", "asking-key", "--state", asking.state.root).strip()
    (tmp_path / "search.toml").write_text(
        f"""
        format = 1
        name = "feasibility"
        title = "How many patients there are"
        task = "search"
        purpose = "To see whether a study is possible."
        legal_basis = "Made-up letters."
        data_set = "heart"
        first_quarter = "{QUARTER}"
        last_quarter = "2099-Q4"
        roles = ["clinician"]
        delta = 1e-5
        [[asking_sites]]
        site = "{asking.file.id}"
        key = "{key}"
        [counts]
        epsilon = 0.3
        most = 3
        most_of_an_asker = 2
        most_of_a_hospital = 2
        least_shown = 5
        """.replace('data_set = "heart"', f'data_set = "{asking.file.data_set.name}"')
    )
    researcher = federation.folder / "state" / "researcher.key"
    assert "3 counts" in fedhealth("study", "check", tmp_path / "search.toml")
    digest = fedhealth("study", "sign", tmp_path / "search.toml", "--key", researcher).strip().splitlines()[-1]
    signed = tmp_path / "search.signed"
    fedhealth("coordinator", "offer-search", signed, "--home", federation.home.root)
    public = fedhealth("study", "keygen", tmp_path / "my.key").strip().splitlines()[-1]
    fedhealth(
        *("site", "vouch", asking.folder, public, "--until", "2099-Q4"),
        *("-o", tmp_path / "my.asker", "--state", asking.state.root),
    )
    for site in others:
        said = fedhealth("site", "approve", site.folder, signed, "--state", site.state.root, "--yes")
        assert "of everybody" in said and "patients in all, who pay as held-out patients" in " ".join(said.split())
        assert f"clinician of {asking.file.id}, from {QUARTER} to 2099-Q4; each key 2 new" in " ".join(said.split())
    with Processes(federation.logs) as processes:
        serve = ["coordinator", "serve", "--home", str(federation.home.root), "--address", "127.0.0.1:0"]
        coordinator = processes.start("coordinator", [*serve, "--enrolment", "127.0.0.1:0"], events=True)
        port = json.loads(coordinator.process.stdout.readline())["port"]
        for site in federation.sites:
            point_node(site, f"127.0.0.1:{port}")
            place = ["--state", str(site.state.root)]
            processes.start(f"{site.file.id}-gate", ["site", "gate", str(site.folder), *place])
            processes.start(f"{site.file.id}-node", ["site", "node", *place])
        me = ["--study", signed, "--key", tmp_path / "my.key", "--certificate", tmp_path / "my.asker"]
        ask = ["count", *me, "--state", asking.state.root, "--json", "--yes"]
        deadline = time.monotonic() + 60
        while True:
            answer = json.loads(typed([*ask, "--having", "icd10:G20", "--ages", "60-80"])[1] or "{}")
            if not answer.get("absent") and "counts" in answer:
                break
            assert time.monotonic() < deadline, [log.read_text() for log in federation.logs.iterdir()]
            time.sleep(0.3)
        counts = {site.file.id: answer["counts"][site.file.id] for site in others}
        assert abs(counts[others[0].file.id] - 200) < 40  # e**-20 beyond that
        assert json.loads(fedhealth(*ask, "--having", "icd10:G20", "--ages", "60-80"))["counts"] == answer["counts"]
        fedhealth(*ask, "--having", "icd10:I50", "--sex", "female")
        spent = json.loads(fedhealth(*ask, "--having", "icd10:I50"))
        assert spent["absent"] == {site.file.id: "budget-spent" for site in others}
        saved = tmp_path / "cohort.toml"
        words = fedhealth(*ask[:-2], "--yes", "--having", "icd10:G20", "--ages", "60-80", "--save", saved)
        assert (
            "what leaves this hospital:" in words
            and "nothing else" in words
            and re.search(r": \d+ \+-\d+ patients\n", words)
        )
        assert max(map(len, words.splitlines())) <= 80
    # Who was counted is whom a study can be of.
    protocol = tmp_path / "tremor.toml"
    fedhealth("study", "new", "tremor", "--cohort", saved, "--data-set", asking.file.data_set.name, "--out", protocol)
    cohort = load_study(protocol).cohort
    assert cohort.query.model_dump(mode="json") == answer["query"]
    assert "already" in typed([*ask, "--having", "icd10:G20", "--save", saved])[2]
    said = typed(["site", "data", "check", others[0].folder, "--study", protocol, "--state", others[0].state.root])[1]
    assert "200 of 400 patients in the index are in the study's cohort" in " ".join(said.split())
    for site in others:
        verified = verify_ledger(site.state.ledger)
        assert verified.head.size > 0
        budget = fedhealth("site", "budget", site.folder, "--state", site.state.root)
        assert "feasibility" in budget and digest[:12] in budget
        assert f"{QUARTER}   2 new counts by key {public[:12]} of {asking.file.id}" in budget
        _never_planted(site.state.node)
    ledgers = [site.state.gate for site in others]
    studies = json.loads(fedhealth("audit", "budget", *ledgers, "--json"))["studies"]
    counted = next(each for each in studies if each["study"] == digest)
    assert [(each["charged"], each["planned"]) for each in counted["sites"]] == [
        (2, 3),
        (2, 3),
    ]  # left once, paid twice
    fedhealth("audit", "report", *ledgers, "--out", tmp_path / "register.html")
    page = (tmp_path / "register.html").read_text()
    assert f"{QUARTER}: 2 by key <code>{public[:12]}</code> of {asking.file.id}</dd>" in page
    for folder in (federation.home.root, federation.logs):
        _never_planted(folder)


def _never_planted(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert PLANTED.encode() not in data and b"letter-1" not in data, path
