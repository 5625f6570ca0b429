"""The worker of a SuperNode: takes task after task from its Runtime API, in one process that stays.

Flower's own way is a `flower-superexec` that starts a process for each message, which installs the app bundle, puts its
folder first on `sys.path` and imports from there. This worker does what those two do, through the same API and with
Flower's own client code, but starts nothing and loads nothing: it compares the bundle's SHA-256 and then calls the app
that it was given.

Private pieces of Flower, all of them at work in `tests/flower/test_task_worker.py`: the client of the Runtime API, its
interceptors, and the three steps of `run_clientapp`.

Source: `flwr.supercore.superexec.run_superexec` and `flwr.supernode.runtime.run_clientapp`, Flower 1.41.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable

import httpx
from flwr.app import Context, Error, Message
from flwr.common.constant import SubStatus
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TASK_TOKEN_HEADER, TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedhealth.errors import RefusalCode
from fedhealth.flower.fab import check_fab
from fedhealth.flower.link_grid import REFUSED_ERROR_CODE

_LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.1
"""How often it asks for a task. A SuperNode looks for the reply each half second."""
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"

_ALIVE_SECONDS = 10.0
"""How often a SuperNode hears that a task is worked at; it gives up after twice 30 s of silence."""
_AWAY_SECONDS = 0.3
"""How soon a SuperNode that does not answer is asked again: it begins beside its worker and takes seconds for it."""
_ARRIVING_SECONDS, _PEEK_SECONDS = 300.0, 0.02
"""How long no part of a message may come to the SuperNode before its task is given up, and how often it is looked for.

At the slowest rate that a link bears, two parts of Flower's 5 MiB come together after 160 s.
"""

App = Callable[[Message, Context], Message]


class _TaskClient(RuntimeHttpClient):
    """Looks often for a part of a message that the SuperNode is still taking in, where Flower waits for a second."""

    _arrived = 0.0

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802 - Flower's name
        self._arrived = max(self._arrived, time.monotonic())
        while True:
            given = super().PullObject(request)
            if given.object_available or not given.object_found:
                self._arrived = time.monotonic()
                return given
            if time.monotonic() - self._arrived > _ARRIVING_SECONDS:
                raise TimeoutError("no part of a message came")
            time.sleep(_PEEK_SECONDS)

    def keep_alive(self, over: threading.Event) -> None:
        """Tell the SuperNode now and then that a task is worked at; that it has ended is found out by other calls."""
        while not over.wait(_ALIVE_SECONDS):
            with contextlib.suppress(httpx.HTTPError):
                self.SendTaskHeartbeat(SendTaskHeartbeatRequest())


class _Token:
    """Shows the token of the task that is worked at."""

    def __init__(self) -> None:
        self.shown = ""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the token to a request, as Flower's own interceptor for one task does."""
        if self.shown:
            context.request.headers[TASK_TOKEN_HEADER] = self.shown
        return call_next(context)


class TaskWorker:
    """Works for one SuperNode on this machine.

    Args:
        port: of its Runtime API, on the loopback.
        secret: that both know; who has it may take tasks.
        app: what to call with each message.
    """

    def __init__(self, port: int, secret: bytes, app: App) -> None:
        self._app, self._token, self._told = app, _Token(), ""
        signed = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})
        self._client = _TaskClient.from_server_address(
            f"127.0.0.1:{port}",
            insecure=True,  # both ends are on this machine's loopback
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), signed, self._token],
        )

    def work(self) -> bool:
        """Do the next task, if there is one; say whether there was.

        Raises:
            httpx.HTTPError: the SuperNode does not answer, or knows the task no more.
        """
        given = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if not given.HasField("task") or not given.token:
            return False
        self._token.shown, over = given.token, threading.Event()
        threading.Thread(target=self._client.keep_alive, args=(over,), daemon=True).start()
        try:
            self._do(self._client)
        finally:
            over.set()
            self._token.shown = ""
        return True

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _do(self, client: RuntimeHttpClient) -> None:
        try:
            message, context, _run, fab = pull_task_input(client)
        except Exception as error:  # the run ended meanwhile, or the message is gone; a SuperNode lets such a task go
            _LOG.warning("a task without a message is given up: %(defect)s", {"defect": type(error).__name__})
            return
        try:
            check_fab(fab.content)
            reply = self._app(message, context)
        except Exception as error:  # whatever it is, the other side learns one word
            self._tell(error)
            reply = Message(Error(REFUSED_ERROR_CODE, RefusalCode.BAD_REQUEST.value), reply_to=message)
        push_message(client, reply, context)
        push_task_output(client, context, SubStatus.COMPLETED, "")

    def _tell(self, error: Exception) -> None:
        """Say once in a row what happened; the log leaves out the text of what is not ours."""
        if str(error) != self._told:
            _LOG.error("a message is refused: %(error)s", {"error": error})
        self._told = str(error)


def keep_working(worker: TaskWorker, wait: Callable[[], None] = lambda: time.sleep(LOOK_SECONDS)) -> None:
    """Do task after task until this process is stopped, also while the SuperNode is away.

    Args:
        worker: does them.
        wait: until there may be a task.
    """
    while True:
        try:
            worker.work()
            wait()
        except httpx.HTTPError as error:
            _LOG.debug("the SuperNode does not answer: %(defect)s", {"defect": type(error).__name__})
            time.sleep(_AWAY_SECONDS)
