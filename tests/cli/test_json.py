"""`--json`: every command answers with one document, every error is one document, and nobody is asked anything."""

import ast
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "compliance"))
from published_run import make_ledger, make_run

from fedhealth.cli import output
from fedhealth.cli.commands import app
from fedhealth.cli.json_option import commands_of
from fedhealth.cli.main import main
from fedhealth.coordinator.evidence import Evidence
from fedhealth.demo.run import DemoResult
from fedhealth.privacy.verify import verify_ledger

ROOT = Path(__file__).resolve().parents[2]
CLI = ROOT / "fedhealth" / "cli"
COMMANDS = dict(commands_of(typer.main.get_command(app)))
HEART = ROOT / "protocols" / "heart-disease-diagnosis.toml"

# A day of everybody's, in order: the words after `fedhealth`, the exit code, and the keys that the document has at
# least; a list where it is one, an empty set where there is an error. {key}, {study} and {recovery} are what earlier
# commands said.
DAY = [
    ("root create heart --root root --unencrypted", 0, {"federation", "fingerprint"}),
    ("coordinator init heart --home home --link c.example:1 --enrolment c.example:2", 0, {"witness_key", "request"}),
    ("root certify home/authority/issuing.csr --root root --unencrypted -o issuing.crt", 0, {"federation", "wrote"}),
    ("coordinator install issuing.crt root/root.pem --home home", 0, {"fingerprint", "certifies_until"}),
    ("coordinator request-authority --home home", 0, {"request"}),
    ("coordinator invite hungary --home home", 0, {"site", "invitation", "minutes"}),
    ("coordinator members --home home", 0, {"members"}),
    ("study new sepsis", 0, {"wrote", "features", "dimension", "left_out"}),
    ("study keygen my.key", 0, {"public_key", "wrote"}),
    ("study check heart.toml --limits hungary.limits.json", 3, set()),
    ("site limits hungary", 0, {"site", "data_set", "declared_patients"}),
    ("site limits hungary --out hungary.limits.json", 0, {"wrote"}),
    ("study check heart.toml --limits hungary.limits.json", 0, {"costs", "sites", "sizes"}),
    ("study sign heart.toml --key my.key", 0, {"study", "wrote"}),
    ("study schema", 0, {"$defs", "properties"}),
    ("site init hungary --state state --witness {key} --unsafe-test-site 1", 0, {"ledger_key"}),
    ("site asking-key --state state", 0, {"asking_key"}),
    ("site vouch hungary {key} --until 2099-Q4 -o my.asker --state state", 0, {"key", "role", "until", "wrote"}),
    (
        "site articles publish hungary open.jsonl --name open --licence CC0-1.0 --state state --preview",
        0,
        {"published", "titles"},
    ),
    (
        "site articles publish hungary open.jsonl --name open --licence CC0-1.0 --state state --yes",
        0,
        {"published", "version", "key", "articles", "bytes", "licence"},
    ),
    ("site articles publish hungary open.jsonl --name open --licence CC0-1.0 --state state", 2, set()),
    ("site articles list --state state", 0, {"published", "fetched", "last_fetch", "keys"}),
    ("site articles trust va {key} --state state", 0, {"site", "key"}),
    ("site articles withdraw hungary open --state state --yes", 0, {"withdrawn", "version"}),
    ("coordinator articles list --home home", 0, {"corpora", "removed"}),
    ("coordinator articles remove va open --home home", 3, set()),  # there is none
    ("site trust researcher hungary demo {key} --state state", 0, {"researcher", "allowed_by_policy"}),
    ("site trust list hungary --state state", 0, {"demo"}),
    ("site data list hungary", 0, {"name", "patient_column"}),
    ("site data check hungary --study heart.toml", 0, {"problems"}),
    ("site data add ward ward/patients.csv --name w --declared-patients 300 --yes", 0, {"data_set", "columns"}),
    ("site preflight hungary --state state", None, []),
    ("site studies hungary --state state", 0, {"studies"}),
    ("site reject hungary {study} --state state --reason cost", 0, {"study", "rejected", "reason"}),
    (
        "site approve hungary heart.signed --state state --yes --although-rejected",
        0,
        {"study", "approved", "by", "here", "researcher"},
    ),
    ("site budget hungary --state state", 0, {"budgets"}),
    ("site status --state state", 0, {"site", "waits"}),
    ("site egress --state state", 0, {"lines", "unreadable"}),
    ("site pause hungary --state state", 0, {"paused", "gate_running"}),
    ("site resume hungary --state state", 0, {"paused", "gate_running"}),
    ("site forget hungary --state state 17", 0, {"forgotten", "at_once", "records"}),
    ("site unforget hungary --state state 17", 0, {"forgotten", "at_once"}),
    ("site studies-of hungary --state state 17", 0, []),
    ("site withdraw hungary {study} --state state", 0, {"withdrawn", "gate_running"}),
    ("site distrust hungary demo --state state", 0, {"researcher", "gate_running"}),
    ("site recover-ledger hungary --state state", 0, {"recovered"}),
    ("site rotate-key hungary --state state", 0, {"ledger_key"}),
    ("site key-statement hungary --state state -o statement", 0, {"wrote", "rotations"}),
    ("coordinator follow-key statement --home home", 2, set()),
    ("coordinator follow-key statement --home home --yes", 3, set()),  # the site never joined
    ("site recovery-key recovery", 0, {"recovery_key", "wrote"}),
    ("site backup hungary --state state --to backup --recovery-key {recovery}", 0, {"wrote", "entries"}),
    ("site recover hungary --state again --from backup --key recovery", 0, {"site", "entries", "kept"}),
    ("audit verify state/gate", 10, {"head", "spending"}),
    ("audit acts state/gate", 10, {"site", "acts"}),
    ("audit budget state/gate", 10, {"site", "budgets"}),
    ("audit report state/gate --out register.html", 10, {"sites"}),
    ("audit export state/gate -o hungary.bundle", 10, {"wrote", "bytes", "sites"}),
]

OWN_TESTS = {
    ("demo",): "tests/cli/test_json.py",
    ("coordinator", "run"): "tests/demo/test_demo.py",
    ("coordinator", "serve"): "tests/cli/test_cli_joining.py",
    ("coordinator", "revoke"): "tests/cli/test_cli_joining.py",
    ("coordinator", "offer-search"): "tests/cli/test_cli_counts.py",
    ("count",): "tests/cli/test_cli_counts.py",
    ("site", "enrol"): "tests/cli/test_cli_joining.py",
    ("site", "node"): "tests/cli/test_cli_joining.py",
    ("site", "start"): "tests/site/test_starting.py",
    ("site", "gate"): "tests/site/test_starting.py",
    ("site", "supernode"): "tests/site/test_supernode.py",
    ("site", "worker"): "tests/site/test_supernode.py",
    ("search",): "tests/site/test_search_commands.py",
    ("site", "page"): "tests/page/test_page_processes.py",
    ("site", "page-server"): "tests/page/test_page_processes.py",
    ("site", "page-search"): "tests/page/test_page_processes.py",
    ("site", "index", "add"): "tests/site/test_search_commands.py",
    ("site", "index", "status"): "tests/site/test_search_commands.py",
    ("site", "index", "fill"): "tests/site/test_search_commands.py",
    ("site", "index", "rebuild"): "tests/site/test_search_commands.py",
    ("site", "index", "accesses"): "tests/site/test_search_commands.py",
    ("audit", "empirical"): "tests/compliance/test_empirical.py",
    ("study", "submit"): "tests/coordinator/test_cli_study_runs.py",
    ("study", "list"): "tests/coordinator/test_cli_study_runs.py",
    ("study", "watch"): "tests/coordinator/test_cli_study_runs.py",
    ("study", "stop"): "tests/coordinator/test_cli_study_runs.py",
    ("study", "results"): "tests/coordinator/test_cli_study_runs.py",
    ("study", "simulate"): "tests/simulation/test_simulate.py",
}
"""What needs processes of its own, such as those that confine themselves, and whose tests read what they print."""


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedhealth", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def error_of(said):
    document = json.loads(said)
    assert set(document) == {"error", "code", "kind"}
    assert set(document["error"]) == {"what", "got", "wanted", "next_step"}
    return document


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_takes_json_once(words):
    options = [option for parameter in COMMANDS[words].params for option in parameter.opts]
    assert options.count("--json") == 1


def calls_in(tree):
    return [each for each in ast.walk(tree) if isinstance(each, ast.Call)]


def named(call):
    return getattr(call.func, "attr", None) or getattr(call.func, "id", "")


def says_to_a_program(name, functions, seen=()):
    """Say whether a function, or one of its module that it calls, tells a program anything."""
    for call in calls_in(functions[name]):
        if named(call) in ("answer", "say_event", "say_step"):
            return True
        if named(call) in ("say", "remark") and call.keywords:
            return True
        known = named(call) in functions and named(call) not in (name, *seen)
        if known and says_to_a_program(named(call), functions, (*seen, name)):
            return True
    return any(isinstance(each, ast.Name) and each.id == "say_event" for each in ast.walk(functions[name]))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_tells_a_program_something(words):
    function = inspect.unwrap(COMMANDS[words].callback)
    tree = ast.parse(Path(inspect.getsourcefile(function)).read_text())
    functions = {each.name: each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
    assert says_to_a_program(function.__name__, functions)


def writers(text):
    """Return the calls in a module's text that would speak or ask past `fedhealth.cli.output`."""
    forbidden = {"echo", "secho", "prompt", "confirm", "Console", "print"}
    return [
        named(call) + str(call.lineno)
        for call in calls_in(ast.parse(text))
        if named(call) in forbidden and getattr(getattr(call.func, "value", None), "id", "") != "page"
    ]


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.name)
def test_no_command_speaks_past_the_one_module_that_knows_of_json(path):
    if path.name not in ("output.py", "json_option.py"):
        assert writers(path.read_text()) == []


def test_a_command_that_spoke_past_it_would_be_found():
    assert writers("typer.echo('x')\nprint(1)\nConsole()\nsay('y')") == ["echo1", "print2", "Console3"]


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """What each command of the day ended with and said, by the words that called it and how often before."""
    folder, found = tmp_path_factory.mktemp("day"), {}
    shutil.copytree(ROOT / "sites" / "hungary", folder / "hungary")
    shutil.copytree(ROOT / "sites" / "hungary", folder / "ward")
    (folder / "ward" / "site.toml").write_text('id = "ward"\ntitle = "Ward"\n')
    (folder / "heart.toml").write_bytes(HEART.read_bytes())
    (folder / "open.jsonl").write_text('{"id": "1", "title": "A title", "text": "A text."}\n')
    known = {"key": "", "study": "", "recovery": ""}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, (line, _, _) in enumerate(DAY):
            patch.setattr(sys, "argv", ["fedhealth", *line.format(**known).split(), "--json"])
            out, err = (folder / f"{number}.{name}" for name in ("out", "err"))
            with out.open("w") as said, err.open("w") as complained, patch.context() as streams:
                streams.setattr(sys, "stdout", said)
                streams.setattr(sys, "stderr", complained)
                with pytest.raises(SystemExit) as ended:
                    main()
            found[number] = ended.value.code, out.read_text(), err.read_text()
            if line.startswith("study keygen"):
                known["key"] = json.loads(out.read_text())["public_key"]
            if line.startswith("study sign"):
                known["study"] = json.loads(out.read_text())["study"]
            if line.startswith("site recovery-key"):
                known["recovery"] = json.loads(out.read_text())["recovery_key"]
    return found


@pytest.mark.parametrize("number", range(len(DAY)), ids=lambda number: DAY[number][0].split(" --")[0])
def test_a_command_answers_with_one_document(day, number):
    _, wanted_code, wanted = DAY[number]
    code, out, err = day[number]
    assert wanted_code in (code, None), err
    if code != 0 and not out:
        assert error_of(err)["code"] == code
        assert wanted == set(), err
        return
    document = json.loads(out)
    assert isinstance(document, list) if wanted == [] else wanted <= set(document)
    assert {warning["warning"][:9] for warning in map(json.loads, err.splitlines())} == (
        {"TEST SITE"} if code else set()
    )


def test_every_command_has_its_place_in_the_day_or_a_test_of_its_own():
    walked = {words for words in COMMANDS for line, _, _ in DAY if tuple(line.split()[: len(words)]) == words}
    assert walked | set(OWN_TESTS) == set(COMMANDS)
    assert all((ROOT / path).exists() for path in OWN_TESTS.values())


def test_the_demonstration_answers_with_its_evidence(capsys, monkeypatch, tmp_path):
    """The command around a run; the run itself is of `tests/demo`."""
    ledgers = [make_ledger(tmp_path / site / "gate", site) for site in ("north", "south")]
    published = make_run(tmp_path / "run", dict(zip(("north", "south"), ledgers, strict=True)))
    evidence = Evidence.model_validate_json((published / "evidence.json").read_bytes())
    made = DemoResult(evidence, tmp_path / "report.html", tuple(map(verify_ledger, ledgers)))
    monkeypatch.setattr("fedhealth.demo.run.run_demo", lambda *_, **__: made)
    code, out, err = run(capsys, monkeypatch, "demo", "--out", tmp_path / "demo", "--json")
    found = json.loads(out)
    assert (code, err, found["report"]) == (0, "", str(tmp_path / "report.html"))
    assert found["evidence"] == json.loads((published / "evidence.json").read_text())
    assert [head["site"] for head in found["ledgers"]] == ["north", "south"]


@pytest.mark.parametrize(
    ("words", "code", "kind", "part"),
    [
        pytest.param("site pause --json", 2, "UsageError", "SITE_FOLDER", id="an argument is missing"),
        pytest.param("--json site pause", 2, "UsageError", "--json", id="the option stands before the command"),
        pytest.param("site stats --json", 2, "UsageError", "stats", id="no such command"),
        pytest.param("study new --json x --colour", 2, "UsageError", "--colour", id="no such option"),
        pytest.param("coordinator invite a --home b --minutes 99 --json", 2, "UsageError", "99", id="out of range"),
        pytest.param("study check none.toml --json", 3, "ConfigInvalid", "none.toml", id="no such file"),
        pytest.param("audit verify none --json", 7, "LedgerDamaged", "none", id="no ledger"),
        pytest.param("site status --state none --json", 3, "ConfigInvalid", "none", id="no state"),
    ],
)
def test_an_error_is_one_document(capsys, monkeypatch, tmp_path, words, code, kind, part):
    monkeypatch.chdir(tmp_path)
    ended, out, err = run(capsys, monkeypatch, *words.split())
    document = error_of(err)
    assert (ended, document["code"], document["kind"], out) == (code, code, kind, "")
    assert part in document["error"]["what"]
    assert document["error"]["next_step"]


def test_a_study_whose_name_is_json_is_no_wish_for_json(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, monkeypatch, "study", "check", "--", "--json")
    assert (code, out) == (3, "") and err.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("site data add ward ward/patients.csv", "--patient-column"),
        ("site data add ward ward/patients.csv --patient-column id --name w --declared-patients 300", "--yes"),
    ],
)
def test_nobody_is_asked_where_json_is_wanted(capsys, monkeypatch, tmp_path, words, option):
    shutil.copytree(ROOT / "sites" / "hungary", tmp_path / "ward")
    (tmp_path / "ward" / "site.toml").write_text('id = "ward"\ntitle = "Ward"\n')
    before = (tmp_path / "ward" / "site.toml").read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr("typer.confirm", lambda *_, **__: pytest.fail("asked"))
    code, out, err = run(capsys, monkeypatch, *words.split(), "--json")
    assert (code, out) == (2, "") and option in error_of(err)["error"]["what"]
    assert (tmp_path / "ward" / "site.toml").read_bytes() == before


def test_a_passphrase_comes_on_standard_input_where_json_is_wanted(tmp_path):
    def made(*words):
        command = [sys.executable, "-m", "fedhealth.cli.main", "root", *words, "--json"]
        return subprocess.run(command, input="correct horse\n", text=True, capture_output=True, cwd=tmp_path)

    assert json.loads(made("create", "heart", "--root", "root").stdout)["federation"] == "heart"
    assert b"ENCRYPTED" in (tmp_path / "root" / "root.key").read_bytes()


def test_ctrl_c_is_one_document_too():
    script = (
        "import sys; sys.argv = ['fedhealth', 'study', 'schema', '--json']\n"
        "import fedhealth.study.protocol as protocol\n"
        "from fedhealth.cli.main import main\n"
        "def pressed(): raise KeyboardInterrupt\n"
        "protocol.Study.model_json_schema = pressed\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert error_of(done.stderr)["kind"] == "Interrupted"


def test_help_is_for_people_wherever_it_stands(capsys, monkeypatch):
    for words in (("--json", "--help"), ("--help", "--json")):
        code, out, err = run(capsys, monkeypatch, "site", "pause", *words)
        assert (code, err) == (0, "") and "Usage: fedhealth site pause" in out and "{" not in out


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_reader_who_goes_away_is_no_defect(extra):
    command = [sys.executable, "-m", "fedhealth.cli.main", "study", "schema", *extra]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read().decode()
        assert process.wait(30) == 1


def test_what_json_does_not_have_is_null_and_a_model_its_fields(capsys):
    output.begin(["--json"])
    output.answer({"epsilon": float("inf"), "all": (1.0, float("nan")), "path": Path("a")})
    output.say("for a person", more=True)
    output.finish()
    found = json.loads(capsys.readouterr().out)
    assert found == {"epsilon": None, "all": [1.0, None], "path": "a", "more": True}


def test_a_person_reads_sentences_and_a_program_one_document(capsys):
    for arguments, said in (([], ("yes\n", "beside\n")), (["--json"], ('{\n  "yes": 1,\n  "beside": 2\n}\n', ""))):
        output.begin(arguments)
        output.say("yes", yes=1)
        output.remark("beside", beside=2)
        output.finish()
        assert tuple(capsys.readouterr()) == said
