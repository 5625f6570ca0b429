"""`fedhealth site index` and `fedhealth search` as an administrator and a clinician run them.

What may depend on the process is tried with real, confined processes. What they ask and are told is the same in this
one, which enters no domain.
"""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ward import Ward

pytest.importorskip("tantivy", reason="the extra `search` is not installed")

from fedhealth.cli.main import main
from fedhealth.errors import INTERRUPTED_EXIT_CODE, ConfigInvalid, DataUnusable
from fedhealth.search.index import SearchIndex
from fedhealth.site.landlock import Sandbox
from fedhealth.site.search_consent import make_index_folder, read_consent
from fedhealth.site.search_domain import SearchDomain
from fedhealth.site.state import user_name

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

LETTERS = {
    "p1/2024-05-31 Sortie.txt": "Douleur thoracique depuis deux jours. Pas d'épanchement pleural.",
    "p2/2023-02-01 Consultation.txt": "Épanchement pleural gauche.\nAntécédent de goutte. \x1b[31mrouge\x1b[0m",
    "p3/2022-01-05 Letter.txt": "Chest pain without fever. " + "Nothing else of note was found. " * 40,
    "p4/2021-01-05 Broken.txt": b"\x00\x01\x02" * 50,
}
SOURCES = """
[[sources]]
name = "letters"
reader = "text"
path = "letters"
names = "{patient}/{date} {title}.txt"

[people]
path = "patients.csv"
patient_column = "id"
birth_column = "born"
sex_column = "sex"
"""


def run(here, *words, **options):
    command = [sys.executable, "-m", "fedhealth.cli.main", *words, "--state", str(here.state.root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **options)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory, compiled_terms):
    """A site whose letters were indexed by the command; what that said."""
    here = Ward(tmp_path_factory.mktemp("search"), "id,born,sex\np1,1960-06-15,F\np2,1950,M\np3,1950,F\n")
    for name, text in LETTERS.items():
        path = here.folder / "letters" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (here.folder / "search.toml").write_text(SOURCES)
    make_index_folder(here.state)
    for path in compiled_terms.iterdir():
        shutil.copy(path, here.state.index)
        (here.state.index / path.name).chmod(0o600)
    here.added = run(here, "site", "index", "add", str(here.folder), "--json")
    return here


def test_adding_names_what_cannot_be_read_and_the_rest_is_in(hospital):
    assert hospital.added.returncode == DataUnusable.exit_code, hospital.added.stderr
    found = json.loads(hospital.added.stdout)
    (count,) = found["sources"]
    assert (count["read"], count["added"]) == (3, 3)
    (problem,) = count["problems"]
    assert (problem["place"], problem["level"]) == ("p4/2021-01-05 Broken.txt", "left out")
    assert (found["index"]["documents"], found["strangers"]) == ({"letters": 3}, [])
    modes = {path.stat().st_mode & 0o077 for path in [hospital.state.index, *hospital.state.index.rglob("*")]}
    assert modes == {0}  # nobody's but the gate's user's


@pytest.fixture
def ask(hospital, monkeypatch, capsys):
    """Run a search in this process; return its exit code, what it printed and what it said on standard error."""

    def enter(folder, state, *, background):
        return SearchDomain(hospital.state.index, read_consent(hospital.state), Sandbox(0), "alice")

    monkeypatch.setattr("fedhealth.cli.search.enter_domain", enter)

    def asking(*words):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "search", *words, "--state", str(hospital.state.root)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return asking


@pytest.fixture
def find(ask):
    """Run a search in this process; return its JSON document."""

    def finding(*words):
        code, out, err = ask(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    return finding


def test_a_search_says_what_is_a_hit_why_and_what_was_searched(find):
    answer = find("chest pain")
    first = next(hit for hit in answer["hits"] if hit["patient"] == "p3")
    assert {hit["patient"] for hit in answer["hits"]} == {"p1", "p3"}  # in both languages
    assert (first["patient"], first["date"], first["sex"], first["age"]) == ("p3", "2022-01-05", "female", 72)
    (mark, *_) = first["highlights"]
    assert first["text"][mark["start"] : mark["end"]].lower() == "chest pain"
    assert first["reasons"]
    assert answer["searched"]["documents"] == {"letters": 3}
    assert answer["searched"]["passages"] >= 3


def test_what_a_text_denies_is_found_only_where_that_is_asked_for(find):
    assert {hit["patient"] for hit in find("épanchement pleural")["hits"]} == {"p2"}
    everywhere = find("épanchement pleural", "--include-negated")
    assert {hit["patient"] for hit in everywhere["hits"]} == {"p1", "p2"}


@pytest.mark.parametrize(
    ("options", "patients"),
    [
        (["--since", "2023"], {"p1"}),
        (["--until", "2022"], {"p3"}),
        (["--since", "2023", "--until", "9999"], {"p1"}),
        (["--age", "70-"], {"p3"}),
        (["--age", "-65"], {"p1"}),
        (["--sex", "M"], set()),
        (["--patient", "p1"], {"p1"}),
        (["--kind", "report"], set()),
        (["--kind", "letter", "--code", "R07.4"], {"p1", "p3"}),
    ],
    ids=["since", "until", "last year", "old", "young", "sex", "patient", "kind", "code"],
)
def test_a_filter_leaves_out_what_it_says(find, options, patients):
    answer = find("douleur thoracique", *options)
    assert {hit["patient"] for hit in answer["hits"]} == patients
    assert any(value not in (None, []) for value in answer["searched"]["only"].values())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([" \t"], ConfigInvalid.exit_code, "no words"),
        (["fever", "--since", "05/06/2024"], ConfigInvalid.exit_code, "--since"),
        (["fever", "--age", "old"], ConfigInvalid.exit_code, "--age"),
        (["fever", "--age", "60-40"], ConfigInvalid.exit_code, "ages"),
        (["fever", "--sex", "x"], ConfigInvalid.exit_code, "--sex"),
        (["fever", "--kind", "film"], ConfigInvalid.exit_code, "--kind film"),
        (["fever", "--code", "?"], ConfigInvalid.exit_code, "--code"),
    ],
    ids=["empty", "date", "age", "ages", "sex", "kind", "code"],
)
def test_what_cannot_be_asked_is_said_without_a_traceback(ask, words, code, said):
    ended, _, err = ask(*words)
    assert (ended, said in err, "Traceback" in err) == (code, True, False), err


def test_odd_questions_are_answered_or_refused_and_never_break_it(ask):
    for question in ("pneumonei", "x" * 10_000, "chest douleur \x07 fièvre pain", "\x1b[2J pain", "pain " * 2_000):
        code, out, err = ask(question)
        assert (code, "Traceback" in err, "\x1b" in out) == (0, False, False), err


def test_a_question_on_standard_input_stands_in_no_list_of_processes(hospital):
    done = run(hospital, "search", "--json", input="goutte\n")
    assert [hit["patient"] for hit in json.loads(done.stdout)["hits"]] == ["p2"]


def at_terminal(here, *words, typed=""):
    """Run a command at a terminal of 80 columns; return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fedhealth.cli.main", *words, "--state", str(here.state.root)]
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm-256color"}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            if typed:
                os.write(ours, typed.encode())
            shown = b""
            with contextlib.suppress(OSError):
                while part := terminal.read(65536):
                    shown += part
        return process.returncode, shown.decode()


def test_at_a_terminal_one_question_is_asked_after_the_other_and_answers_fit_80_columns(hospital):
    code, shown = at_terminal(hospital, "search", "--include-negated", typed="goutte fièvre\n \t?\nchest pain\n\n")
    plain = re.sub(r"\x1b\[[0-9;]*m|Search \(Enter alone ends\): ", "", shown)  # what was typed stands before it all
    assert code == 0, shown
    assert max(map(len, plain.splitlines())) <= 80
    assert re.search(r"\x1b\[1(;33)?mgoutte", shown)  # what was asked for stands out
    assert "\x1b[31m" not in shown  # a letter that would colour the rest red
    assert plain.count("searched 3 documents") == 2
    assert "no words" in plain


def test_forgetting_takes_the_patient_out_of_every_file_also_of_this_index(hospital):
    site = [str(hospital.folder)]
    names = [path for path in hospital.state.index.rglob("*") if path.is_file() and b"goutte" in path.read_bytes()]
    assert names
    done = run(hospital, "site", "forget", *site, "p2", "--json")
    assert json.loads(done.stdout)["documents_erased"] == 1, done.stderr
    left = [
        path
        for path in hospital.state.index.rglob("*")
        if path.is_file() and path.name != "terminology.sqlite" and b"goutte" in path.read_bytes()
    ]
    assert left == []


def test_who_was_shown_what_can_be_listed_without_the_words_and_of_one_patient(hospital):
    run(hospital, "search", "chest pain", "--json", env=os.environ | {"SUDO_UID": "61003"})
    login = int(Path("/proc/self/loginuid").read_text())
    by = (
        "uid-61003" if login == 2**32 - 1 else user_name(login)
    )  # where a login is known, it counts more than sudo's word
    listed = json.loads(run(hospital, "site", "index", "accesses", "--json").stdout)["accesses"]
    assert {each["question"] for each in listed} == {None}
    assert (listed[-1]["by"], listed[-1]["kinds"], listed[-1]["patients"]) == (by, {"letter": 2}, 2)
    assert all(each["by"] for each in listed)
    of_one = run(hospital, "site", "index", "accesses", "--patient", "p3").stdout.splitlines()
    assert of_one and len(of_one) < len(listed)
    assert f"{by}: 2 letter of 2 patients" in of_one[-1]


def test_vectors_are_filled_and_passages_found_by_their_meaning(hospital, find):
    filled = json.loads(run(hospital, "site", "index", "fill", "--json").stdout)
    assert filled["filled"] == filled["index"]["passages"] > 0
    assert filled["index"]["without_vector"] == 0
    assert find("thoracic discomfort")["searched"]["by_meaning"] is True


def test_stopping_it_ends_it_with_the_code_of_every_command(hospital):
    command = [sys.executable, "-m", "fedhealth.cli.main", "site", "index", "rebuild", "--vectors"]
    with subprocess.Popen([*command, "--state", str(hospital.state.root)], stderr=subprocess.PIPE) as process:
        status = Path(f"/proc/{process.pid}/status")
        while "NoNewPrivs:\t0" in status.read_text():  # until it has given up what it does not need
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert (process.returncode, said.splitlines()[-1]) == (INTERRUPTED_EXIT_CODE, b"stopped")
    with SearchIndex.open(hospital.state.index) as index:
        assert "p3" in index.patients()
