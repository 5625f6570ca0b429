"""The bones: which package may import which, what stays light, and what may not be in the package at all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fedhealth"

# Lines from the top down; imports go down only, and packages on one line never import each other.
LINES = [
    {"cli", "researcher"},
    {"demo", "simulation", "compliance", "page"},
    {"site", "coordinator"},
    {"learning", "search"},
    {"corpora"},
    {"training"},
    {"link"},
    {"flower"},
    {"policy", "records", "metrics"},
    {"study", "privacy", "pki"},
    {"signing"},
    {"secret_file", "config", "local_log", "processes", "unix_socket", "table_source", "declined"},
    {"errors", "canonical"},
]
LINE_OF = {name: number for number, line in enumerate(LINES) for name in line}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imported_by(path):
    """Yield the dotted names a module imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(dotted):
    """Return the package or module right below `fedhealth`, or None for anything else."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "fedhealth" and len(parts) > 1 and parts[1] in LINE_OF else None


def violations(own, imported):
    return {other for other in imported if other is not None and other != own and LINE_OF[other] <= LINE_OF[own]}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in LINE_OF, f"{own} has no place in the order of packages"
    assert not violations(own, {part_of(name) for name in imported_by(path)})


def test_the_order_would_catch_an_import_upwards_and_one_sideways():
    assert violations("privacy", {"site"}) == {"site"}
    assert violations("site", {"coordinator"}) == {"coordinator"}
    assert violations("site", {"privacy", None}) == set()


@pytest.mark.parametrize(
    "module",
    [
        "fedhealth.site.node",
        "fedhealth.link.client",
        "fedhealth.link.server",
        "fedhealth.flower.task_worker",
        "fedhealth.site.superlink_app",
        "fedhealth.site.fleet_port",
        "fedhealth.privacy.verify",
        "fedhealth.compliance.bundle",
        "fedhealth.compliance.budget",
        "fedhealth.compliance.register_page",
        "fedhealth.compliance.run_checks",
        "fedhealth.learning.plan",
        "fedhealth.search.index",
        "fedhealth.search.reading",
        "fedhealth.search.readers.sources",
        "fedhealth.site.searching",
        "fedhealth.page.web",
        "fedhealth.page.searcher",
    ],
)
def test_importing_the_network_side_and_the_audit_loads_no_torch(module):
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_audit_verify_as_a_command_loads_no_torch(tmp_path):
    script = (
        "import sys; sys.argv = ['fedhealth', 'audit', 'verify', sys.argv[1]]\n"
        "from fedhealth.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: sys.exit(100 if 'torch' in sys.modules else end.code)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "none")], capture_output=True).returncode == 7


def test_the_gate_knows_no_network():
    for name in (
        "gate",
        "gate_inputs",
        "gate_process",
        "held_gate",
        "node_line",
        "prepared_studies",
        "replies",
        "shared_ring",
        "starting_head",
        "stopped_studies",
        "approval",
        "state",
    ):
        imported = set(imported_by(PACKAGE / "site" / f"{name}.py"))
        assert not {each for each in imported if each.startswith(("grpc", "fedhealth.link."))} - {
            each for each in imported if each.startswith(("fedhealth.link.frames", "fedhealth.link.memory"))
        }


def test_only_training_and_the_tasks_import_torch():
    importers = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if any(name.split(".")[0] == "torch" for name in imported_by(path))
    }
    models = {name for name in importers if name.startswith("learning/models/")}  # when a module is asked for
    assert importers - models <= {
        "training/per_patient.py",
        "training/device.py",
        "training/image_gradients.py",
        "training/image_network.py",
        "training/book_keeping.py",
        "training/convolution.py",
        "training/exact_sum.py",
        "training/fallback.py",
        "training/feed_forward.py",
        "training/fixed_batches.py",
        "training/late_fusion.py",
        "training/layer_calls.py",
        "training/layers.py",
        "training/micro_batches.py",
        "training/parts.py",
        "training/privacy_check.py",
        "compliance/subjects.py",
        "learning/hazards.py",
        "learning/losses.py",
        "demo/reference.py",
    }


def test_all_contact_with_flower_is_in_one_package_and_the_two_apps():
    importers = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if any(name.split(".")[0] == "flwr" for name in imported_by(path))
    }
    assert importers == {
        "flower/fleet_fence.py",
        "flower/fleet_requests.py",
        "flower/frame_messages.py",
        "flower/link_grid.py",
        "flower/plain_models.py",
        "flower/rounds.py",
        "flower/strategies.py",
        "flower/strategy_state.py",
        "flower/superlink_control.py",
        "flower/superlink_database.py",
        "flower/superlink_guard.py",
        "flower/task_worker.py",
        "coordinator/server_app.py",
        "coordinator/superlink_app.py",
        "site/superlink_app.py",
    }


def test_nothing_that_can_run_what_it_reads_is_in_the_package():
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    for path in modules():
        tree = ast.parse(path.read_text())
        assert not banned & {name.split(".")[0] for name in imported_by(path)}, path
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "compile", "__import__"}, path
        attributes = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        assert not attributes & {"torch.load", "yaml.load", "np.load"}, path


def test_no_private_key_and_no_ledger_is_in_git():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert not [name for name in names if name.endswith((".key", ".sqlite", ".sqlite-wal", ".secret", ".pem"))]
    marker = "PRIVATE KEY" + "-----"
    found = subprocess.run(["git", "grep", "-lI", "-e", marker], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == ""


def test_architecture_lists_every_package():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert not {name for name in packages if f"`{name}`" not in text}


def test_no_two_test_files_have_one_name():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest collects no suite in which two files have one name"
