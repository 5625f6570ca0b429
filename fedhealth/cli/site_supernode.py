"""`fedhealth site supernode | worker`: Flower's SuperNode at a site and what works for it; `site start` runs both."""

import logging
import os
import sys
import threading
from typing import Annotated

import typer

from fedhealth.cli.lifeline import Lifeline, loading
from fedhealth.cli.output import say_step
from fedhealth.cli.site_arguments import State
from fedhealth.cli.site_processes import tell_incomplete
from fedhealth.errors import ConfigInvalid
from fedhealth.site.supernode_folder import SuperNodeFolder, supernode_folder

Port = Annotated[int, typer.Option(min=1, max=65535, help="The SuperNode's own port, on the loopback.")]


def supernode(
    state: State,
    node_port: Annotated[int, typer.Option(min=1, max=65535, help="The node's port for it: --supernode-port there.")],
    port: Port,
    lifeline: Lifeline = False,
) -> None:
    """Run a stock Flower SuperNode, confined and without data; its requests cross the site's link. For `site start`.

    Example: fedhealth site supernode --state state/hungary --node-port 7001 --port 7002
    """
    from fedhealth.flower.version import check_flower
    from fedhealth.local_log import withhold_tracebacks
    from fedhealth.site.confinement import confine_supernode
    from fedhealth.site.loopback_port import LOOPBACK, listen_on_loopback
    from fedhealth.site.node_records import record_supernode

    withhold_tracebacks()
    check_flower()
    folder = _ready_folder(state)
    listen_on_loopback(port).close()  # or Flower would say it in its own words, after seconds
    record_supernode(state / "node", port)
    tell_incomplete("SuperNode", confine_supernode(folder.root, folder.home, node_port, port))
    _flower_surroundings(folder)
    with loading(lifeline):
        from fedhealth.flower import stock_process
    say_step("", {"event": "starting", "port": port})
    stock_process.main(
        [
            *("flower-supernode", "--superlink", f"{LOOPBACK}:{node_port}", "--host", LOOPBACK, "--port", str(port)),
            *("--root-certificates", str(folder.certificate), "--auth-supernode-private-key", str(folder.key)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(folder.secret)),
        ],
        lifeline=lifeline,
    )


def worker(state: State, port: Port, lifeline: Lifeline = False) -> None:
    """Carry frames between a SuperNode and the gate, confined and without data. For `site start`.

    Example: fedhealth site worker --state state/hungary --port 7002
    """
    from fedhealth.flower.version import check_flower
    from fedhealth.local_log import withhold_tracebacks
    from fedhealth.site.confinement import confine_worker

    withhold_tracebacks()
    check_flower()
    folder = _ready_folder(state)
    tell_incomplete("worker", confine_worker(folder.root, port))
    _flower_surroundings(folder)
    with loading(lifeline):
        from fedhealth.flower.task_worker import TaskWorker, keep_working
        from fedhealth.site.frame_socket import News
        from fedhealth.site.superlink_app import FRAME_SOCKET, app
    os.environ[FRAME_SOCKET] = str(folder.socket)
    if lifeline:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    say_step("", {"event": "working", "port": port})
    keep_working(TaskWorker(port, folder.worker_secret(), app), News(folder.socket).wait)


def _ready_folder(state: State) -> SuperNodeFolder:
    folder = supernode_folder(state.absolute() / "node")
    if not folder.certificate.exists():
        raise ConfigInvalid(
            "no SuperNode can begin at this site",
            got=f"no {folder.certificate}",
            wanted="a node with engine 'superlink' whose key the coordinator has registered",
            next_step="Start all of it: fedhealth site start --engine superlink; its messages say what is missing.",
        )
    return folder


def _flower_surroundings(folder: SuperNodeFolder) -> None:
    """Nothing is reported, looked up or installed by Flower, and no proxy lies between processes of one machine."""
    from fedhealth.flower.stock_process import stock_environment

    kept = {
        name: value
        for name, value in stock_environment(folder.home, HOME=str(folder.home), TMPDIR=str(folder.home)).items()
        if not name.lower().endswith("_proxy")
    }
    os.environ.clear()
    os.environ.update(kept)
    logging.getLogger("flwr").propagate = False  # it has a handler of its own, for what `FLWR_LOG_LEVEL` lets through


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
