"""The private pieces of Flower that this project stands on: if one moves, these tests say which.

When these fail after an upgrade of Flower, go on with `docs/upgrading-flower.md`.
"""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as shipped
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedhealth.flower.link_grid import LinkGrid, set_task_identity

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = ("flwr.app.", "flwr.serverapp.", "flwr.clientapp.")
"""What Flower documents; these are kept from version to version."""

# Everything else that is used of Flower, and what for. A row here is a promise that a test below, or one that it names,
# fails if the piece no longer does that.
PRIVATE = {
    "flwr.common.constant.SubStatus": "how a task of a SuperNode ended",
    "flwr.proto.control_pb2.ListNodesRequest": "which node keys a SuperLink knows",
    "flwr.proto.control_pb2.RegisterNodeRequest": "a site's node key is registered",
    "flwr.proto.control_pb2.StartRunRequest": "the run that carries a study's frames begins",
    "flwr.proto.control_pb2.StopRunRequest": "and ends",
    "flwr.proto.control_pb2.UnregisterNodeRequest": "a node key is replaced",
    "flwr.proto.fab_pb2.Fab": "the app bundle of a run",
    "flwr.proto.fab_pb2.GetFabResponse": "the app bundle is looked at before a SuperNode has it",
    "flwr.proto.message_pb2.PullObjectRequest": "a part of a task's message",
    "flwr.proto.message_pb2.PullObjectResponse": "a part of a task's message",
    "flwr.proto.fleet_pb2.DeactivateNodeRequest": "a SuperNode that was killed makes room for the next",
    "flwr.proto.fleet_pb2.PullMessagesResponse": "what a site names is its own (`test_fleet_fence.py`)",
    "flwr.proto.fleet_pb2.PushMessagesRequest": "what a site names is its own (`test_fleet_fence.py`)",
    "flwr.proto.fleet_pb2.PushMessagesResponse": "when a reply is whole (`test_fleet_fence.py`)",
    "flwr.proto.message_pb2.ConfirmMessageReceivedRequest": "what a site names is its own (`test_fleet_fence.py`)",
    "flwr.proto.message_pb2.ObjectTree": "what a site names is its own (`test_fleet_fence.py`)",
    "flwr.proto.message_pb2.PushObjectRequest": "what a site names is its own (`test_fleet_fence.py`)",
    "flwr.proto.message_pb2.PushObjectResponse": "when a reply is whole (`test_fleet_fence.py`)",
    "flwr.proto.runtime_pb2.AcquireTaskRequest": "the worker takes tasks",
    "flwr.proto.runtime_pb2.SendTaskHeartbeatRequest": "a task that takes long is not given up",
    "flwr.supercore.constant.FLEET_HTTP_PUBLIC_KEY_HEADER": "whose node key signed a request",
    "flwr.supercore.constant.FLWR_PACKAGE_VERSION_METADATA_KEY": "which version a SuperNode is of",
    "flwr.supercore.constant.TASK_TOKEN_HEADER": "which task a worker speaks of",
    "flwr.supercore.constant.TaskType": "the worker takes tasks of a ClientApp",
    "flwr.supercore.control.ControlHttpClient": "the coordinator's way to its SuperLink",
    "flwr.supercore.interceptors.RuntimeVersionHttpInterceptor": "a SuperNode asks for the version of a worker",
    "flwr.supercore.interceptors.SuperExecAuthHttpInterceptor": "only the site's own worker takes tasks",
    "flwr.supercore.protobuf.client.ProtobufCall": "each Control call shows the coordinator's secret",
    "flwr.supercore.protobuf.client.ProtobufRequestContext": "each Control call shows the coordinator's secret",
    "flwr.supercore.run.Run": "the type of `Grid.run`",
    "flwr.supercore.runtime.RuntimeHttpClient": "the worker's way to its SuperNode",
    "flwr.supercore.state.alembic.utils.ALEMBIC_DIR": "which forms of a SuperLink's database are known",
    "flwr.supercore.state.alembic.utils.ALEMBIC_VERSION_TABLE": "which form a database has",
    "flwr.supercore.task_identity.TaskIdentity": "a `Message` reads the ids of the process there",
    "flwr.supernode.runtime.run_clientapp.pull_task_input": "a task's message and bundle",
    "flwr.supernode.runtime.run_clientapp.push_message": "a task's reply",
    "flwr.supernode.runtime.run_clientapp.push_task_output": "a task's end",
    "flwr.superlink.extensions": "the guard stands before a SuperLink (`tests/flower/test_superlink.py`)",
}


def imported_from_flower():
    """Yield the dotted names that the package imports from Flower, with the file."""
    for path in sorted((ROOT / "fedhealth").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "flwr":
                yield from ((f"{node.module}.{alias.name}", path.relative_to(ROOT)) for alias in node.names)
            elif isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.split(".")[0] == "flwr"], path


def test_every_private_piece_that_is_used_is_known_here_and_no_other():
    used = {name for name, _ in imported_from_flower() if not name.startswith(PUBLIC)}
    assert used == set(PRIVATE)


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_piece_is_where_it_was(name):
    module, _, piece = name.rpartition(".")
    assert hasattr(import_module(module), piece) or import_module(name)  # a module, once it is loaded


def test_every_private_piece_is_in_the_page_on_upgrading():
    page = (ROOT / "docs" / "upgrading-flower.md").read_text()
    assert not [name for name in PRIVATE if f"`{name}`" not in page]


def test_a_message_cannot_be_made_before_the_process_has_an_identity():
    program = (
        "from flwr.app import Message, RecordDict\n"
        "try:\n    Message(RecordDict(), dst_node_id=1, message_type='train')\n"
        "except RuntimeError as error:\n    print(error)\n"
        "from fedhealth.flower.link_grid import set_task_identity\n"
        "set_task_identity(run_id=5)\n"
        "print(Message(RecordDict(), dst_node_id=1, message_type='train').metadata.run_id)\n"
    )
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert lines.splitlines() == ["TaskIdentity.run_id is not set.", "5"]


def test_a_message_reads_the_identity_of_the_process():
    set_task_identity(run_id=123)
    assert (TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id) == (1, 123, 0)
    metadata = Message(RecordDict(), dst_node_id=9, message_type=MessageType.TRAIN).metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.dst_node_id, metadata.src_task_id) == (123, 0, 9, 1)
    assert metadata.message_id == ""


def test_an_empty_run_can_be_made_from_its_id():
    assert Run.create_empty(42).run_id == 42


def test_the_message_id_is_where_the_grid_writes_it_and_a_reply_names_it():
    set_task_identity(run_id=1)
    message = Message(RecordDict(), dst_node_id=3, message_type=MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "17"
    assert message.metadata.message_id == "17"
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "17"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (3, 0)
    refused = Message(Error(code=1, reason="busy"), reply_to=message)
    assert refused.has_error()
    assert (refused.error.reason, refused.metadata.src_node_id) == ("busy", 3)


def test_the_grid_implements_exactly_what_flower_leaves_abstract():
    wanted = {
        *("set_run", "run", "create_message", "get_node_ids"),
        *("push_messages", "pull_messages", "send_and_receive"),
    }
    assert Grid.__abstractmethods__ == wanted
    assert LinkGrid.__abstractmethods__ == frozenset()
    own = {name for name in vars(LinkGrid) if not name.startswith("_") and name in vars(Grid)}
    assert own == wanted
    for name in wanted - {"run"}:
        theirs, ours = inspect.signature(getattr(Grid, name)), inspect.signature(getattr(LinkGrid, name))
        assert list(theirs.parameters) == list(ours.parameters), name


SETTINGS_IN_ATTRIBUTES = {
    "FedAvg": (),
    "FedAvgM": ("server_momentum",),
    "FedAdam": ("eta", "beta_1", "beta_2", "tau"),
    "FedYogi": ("eta", "beta_1", "beta_2", "tau"),
    "FedAdagrad": ("eta", "tau"),
    "FedMedian": (),
    "FedTrimmedAvg": ("beta",),
    "Krum": ("num_malicious_nodes",),
    "MultiKrum": ("num_malicious_nodes", "num_nodes_to_select"),
    "Bulyan": ("num_malicious_nodes",),
}


@pytest.mark.parametrize("name", SETTINGS_IN_ATTRIBUTES)
def test_a_strategy_has_the_parts_that_the_rounds_drive(name):
    strategy = getattr(shipped, name)
    for part in ("configure_train", "aggregate_train", "configure_evaluate"):
        assert callable(getattr(strategy, part))
    counts = {"min_train_nodes": 7, "min_evaluate_nodes": 7, "min_available_nodes": 7}
    settings = {setting: 0.25 if "num" not in setting else 3 for setting in SETTINGS_IN_ATTRIBUTES[name]}
    made = strategy(**counts, **settings)
    assert {each: getattr(made, each) for each in counts | settings} == counts | settings
    assert (made.weighted_by_key, made.arrayrecord_key, made.configrecord_key) == ("num-examples", "arrays", "config")
    assert (made.fraction_train, made.fraction_evaluate) == (1.0, 1.0)


def test_records_carry_doubles_to_the_last_bit():
    values = np.array([0.1, -0.0, 5e-324, 1.7976931348623157e308])
    record = ArrayRecord({"weights": Array(values)})
    assert record["weights"].numpy().tobytes() == values.tobytes()
    content = RecordDict({"arrays": record, "config": ConfigRecord({"server-round": 3}), "metrics": MetricRecord()})
    assert content.config_records["config"]["server-round"] == 3
