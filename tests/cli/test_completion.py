"""What the shell offers after Tab, asked as the shells ask: studies, sites and researchers by name, never a patient."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.cli.completion import approved_studies, offered_studies
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = load_study(ROOT / "protocols" / "heart-disease-diagnosis.toml")
OTHER = STUDY.model_copy(update={"name": "another"})
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def here(tmp_path):
    """A folder with a site, what was offered and approved there, a coordinator's home, and a signed study."""
    shutil.copytree(ROOT / "sites" / "hungary", tmp_path / "hungary")
    for folder, study in (("state/hungary/node/offers", STUDY), ("state/hungary/gate/studies", OTHER)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.json").write_bytes(sign_study(study, KEY))
    (tmp_path / "mine.signed").write_bytes(sign_study(STUDY, KEY))
    (tmp_path / "home" / "sites").mkdir(parents=True)
    for site in ("hungary", "cleveland"):
        (tmp_path / "home" / "sites" / f"{site}.json").write_text("{}")
    return tmp_path


def ask(folder, shell, variables, watch=""):
    """Ask the program as a shell does; `watch` is a program run after it, in its process."""
    script = f"import sys, atexit\nsys.argv = ['fedhealth']\n{watch}\nfrom fedhealth.cli.main import main\nmain()"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "_FEDHEALTH_COMPLETE": f"complete_{shell}"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment | variables, cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def bash(folder, line, watch=""):
    """Return what bash is offered for a line whose last word is being typed."""
    count = len(line.split()) - (not line.endswith(" "))
    return ask(folder, "bash", {"COMP_WORDS": line, "COMP_CWORD": str(count)}, watch).split()


CASES = {
    "nouns": ("fedhealth s", {"search", "site", "study"}),
    "verbs": ("fedhealth site re", {"reject", "resume", "recover", "recover-ledger", "recovery-key"}),
    "verbs of a noun's noun": ("fedhealth site data ", {"add", "check", "list"}),
    "options": ("fedhealth site pause hungary --j", {"--json"}),
    "an offered study, its state where the examples have it": ("fedhealth site approve hungary ", {STUDY.digest}),
    "an offered study": ("fedhealth site reject --state state/hungary hungary ", {STUDY.digest}),
    "first digits": (f"fedhealth site approve hungary {STUDY.digest[:5]}", {STUDY.digest}),
    "digits of another": ("fedhealth site approve hungary zz", set()),
    "an approved study": ("fedhealth site withdraw hungary ", {OTHER.digest}),
    "a stopped study": ("fedhealth site resume hungary ", {OTHER.digest}),
    "what left for a study": ("fedhealth site egress --state state/hungary --study ", {OTHER.digest}),
    "a study to watch": ("fedhealth study watch ", {STUDY.digest}),
    "a study to stop": ("fedhealth study stop ", {STUDY.digest}),
    "a site to take out": ("fedhealth coordinator revoke --home home ", {"cleveland", "hungary"}),
    "a site to invite again": ("fedhealth coordinator invite --home home hu", {"hungary"}),
    "no home": ("fedhealth coordinator revoke ", set()),
    "a researcher": ("fedhealth site trust researcher hungary ", {"demo"}),
    "a researcher to let go": ("fedhealth site distrust hungary d", {"demo"}),
    "a reason": (
        "fedhealth site reject hungary 1 --reason ",
        {"purpose", "legal-basis", "cost", "researcher", "other"},
    ),
    "a format": ("fedhealth site data add hungary x --format c", {"csv"}),
    "a patient": ("fedhealth site forget hungary --state state/hungary ", set()),
    "a patient who comes back": ("fedhealth site unforget hungary --state state/hungary ", set()),
    "a patient's studies": ("fedhealth site studies-of hungary --state state/hungary ", set()),
    "no site there": ("fedhealth site approve nowhere ", set()),
}


@pytest.mark.parametrize(("line", "offered"), CASES.values(), ids=CASES)
def test_bash_is_offered(here, line, offered):
    assert set(bash(here, line)) == offered


def test_zsh_and_fish_see_the_names_of_the_studies(here):
    line = {"_TYPER_COMPLETE_ARGS": "fedhealth site approve hungary "}
    assert f'"{STUDY.digest}":"{STUDY.name}"' in ask(here, "zsh", line)
    fish = line | {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert ask(here, "fish", fish).split() == [STUDY.digest, STUDY.name]


def test_the_script_for_bash_works_in_bash(here):
    """The script that `--show-completion` prints, in a bash that completes a word."""
    program = here / "bin" / "fedhealth"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fedhealth.cli.main "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_FEDHEALTH_COMPLETE=source_bash fedhealth)"\n'
        "COMP_WORDS=(fedhealth site approve hungary '') COMP_CWORD=4\n"
        "function=$(complete -p fedhealth | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        '$function fedhealth\necho "${COMPREPLY[@]}"'
    )
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=here, capture_output=True, text=True)
    assert done.stdout.strip() == STUDY.digest, done.stderr


@pytest.mark.parametrize("line", ["fedhealth ", "fedhealth site approve hungary ", "fedhealth study watch "])
def test_nothing_heavy_is_loaded_to_offer(here, line):
    heavy = ("torch", "numpy", "duckdb", "grpc", "flwr", "sqlalchemy")
    watch = f"atexit.register(lambda: print(*['LOADED-' + name for name in {heavy} if name in sys.modules]))"
    assert not [word for word in bash(here, line, watch) if word.startswith("LOADED")]


class Typed:
    """What was typed so far."""

    params = {"folder": "hungary", "state": "state/hungary"}  # noqa: RUF012 - as click has it


def damage_by_a_pipe(folder):
    os.mkfifo(folder / "pipe.json")


def damage_by_a_byte(folder):
    (folder / "b.json").write_bytes((folder / "a.json").read_bytes().replace(b"Heart", b"Haert", 1))


def damage_by_a_folder(folder):
    (folder / "folder.json").mkdir()


@pytest.mark.parametrize("damage", [damage_by_a_pipe, damage_by_a_byte, damage_by_a_folder])
def test_what_is_odd_in_the_nodes_folder_is_offered_by_nobody(here, monkeypatch, capfd, damage):
    monkeypatch.chdir(here)
    damage(here / "state" / "hungary" / "node" / "offers")
    assert offered_studies(Typed, "") == [(STUDY.digest, STUDY.name)]
    assert approved_studies(Typed, "") == [(OTHER.digest, "another")]
    assert tuple(capfd.readouterr()) == ("", "")
