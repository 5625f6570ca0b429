"""A SuperLink of the tests' own: its Fleet API over TLS on the loopback, one run, and messages that a test hands it.

What it serves is what a stock SuperNode asks; a test can change the bundle that it hands out.
"""

import hashlib
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import fab_to_proto, message_from_proto, message_to_proto, run_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run

from fedhealth.flower.fab import fab_bytes
from fedhealth.flower.link_grid import set_task_identity

RUN = 77
NODE = 5


class ScriptedSuperLink:
    """Serves until it is closed.

    Args:
        certificate: path of a PEM with key and certificate for 127.0.0.1.
    """

    def __init__(self, certificate, fab=None):
        set_task_identity(run_id=RUN)
        self.fab, self.override = fab or fab_bytes(), {}
        self.asked, self.activated, self.deactivated, self.headers = [], 0, [], []
        self.refused = {}  # the HTTP status of calls that are refused, by the last word of their path
        self._waiting, self._objects, self._arriving = [], {}, {}
        self.replies = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                with outer._lock:
                    outer.asked.append(self.path)
                    outer.headers.append(dict(self.headers))
                    status, answer = outer.answer(self.path.removeprefix("/v1/fleet/"), body)
                self.send_response(status)
                self.send_header("content-type", "application/protobuf")
                self.send_header("content-length", str(len(answer)))
                head, self._headers_buffer = b"".join([*self._headers_buffer, b"\r\n"]), []
                self.wfile.write(head + answer)  # at once: in two parts, the second would wait for the first's sign

            def log_message(self, *_):
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def send(self, content, message_type="query"):
        """Let a message with this content wait for the node; return its id."""
        message = Message(content, dst_node_id=NODE, message_type=message_type)
        message.metadata.__dict__["_message_id"] = message.object_id
        with self._lock:
            for name, each in get_all_nested_objects(message).items():
                self._objects[name] = each.deflate()
            self._waiting.append(
                (message.object_id, message_to_proto(remove_content_from_message(message)), get_object_tree(message))
            )
        return message.object_id

    def reply(self, message_id, seconds=60.0):
        """Wait for the reply to a message."""
        deadline = time.monotonic() + seconds
        while message_id not in self.replies:
            assert time.monotonic() < deadline, "no reply came"
            time.sleep(0.01)
        return self.replies[message_id]

    @property
    def run(self):
        run = Run.create_empty(RUN)
        run.fab_id, run.fab_version = "fedhealth/fedhealth-frames", "1.0.0"
        run.override_config = dict(self.override)
        run.fab_hash = hashlib.sha256(self.fab).hexdigest()
        return run

    def answer(self, call, body):
        if call in self.refused:
            return self.refused[call], b""
        made = getattr(self, "_" + call.replace("-", "_"))(body)
        return 200, made.SerializeToString(deterministic=True)

    def _activate_node(self, _):
        self.activated += 1
        return fleet_pb2.ActivateNodeResponse(node_id=NODE)

    def _deactivate_node(self, body):
        self.deactivated.append(fleet_pb2.DeactivateNodeRequest.FromString(body).node_id)
        return fleet_pb2.DeactivateNodeResponse()

    def _send_node_heartbeat(self, _):
        return heartbeat_pb2.SendNodeHeartbeatResponse(success=True)

    def _pull_messages(self, _):
        if not self._waiting:
            return fleet_pb2.PullMessagesResponse()
        _, message, tree = self._waiting.pop(0)
        return fleet_pb2.PullMessagesResponse(messages_list=[message], message_object_trees=[tree])

    def _get_run(self, _):
        return run_pb2.GetRunResponse(run=run_to_proto(self.run))

    def _get_fab(self, _):
        fab = Fab(hashlib.sha256(self.fab).hexdigest(), self.fab, {"valid_license": ""})
        return fab_pb2.GetFabResponse(fab=fab_to_proto(fab))

    def _pull_object(self, body):
        name = message_pb2.PullObjectRequest.FromString(body).object_id
        content = self._objects[name]
        return message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def _confirm_message_received(self, _):
        return message_pb2.ConfirmMessageReceivedResponse()

    def _push_messages(self, body):
        request = fleet_pb2.PushMessagesRequest.FromString(body)
        (message,), (tree,) = request.messages_list, request.message_object_trees
        wanted = [each.object_id for each in iterate_object_tree(tree)]
        self._arriving[tree.object_id] = message_from_proto(message).metadata.reply_to_message_id, set(wanted), {}
        return fleet_pb2.PushMessagesResponse(objects_to_push=wanted, session_id=tree.object_id)

    def _push_object(self, body):
        request = message_pb2.PushObjectRequest.FromString(body)
        for root, (asked, wanted, have) in list(self._arriving.items()):
            if request.object_id in wanted:
                have[request.object_id] = request.object_content
            if wanted == have.keys():
                self.replies[asked] = inflate_object_from_contents(root, have)
                del self._arriving[root]
        return message_pb2.PushObjectResponse(stored=True)
