"""What one site's SuperNode may name in its requests: what it was told of, and what it answers to that.

A SuperLink knows every message and every part of one by its SHA-256, and gives, takes or deletes it for any node that
names it; whom a message is from and for it believes. So beside each site stands a fence, which reads what the SuperLink
announces to that site's SuperNode and what the SuperNode asks: only parts that were announced to it are fetched, only
messages that were handed to it are confirmed and replied to, in its own name and once, and the parts of a reply are
those that it listed, together no longer than was expected. Another site's messages are out of its reach by any name.

Source: `flwr.superlink.servicer.fleet.fleet_handlers` of Flower 1.41, which looks at none of this.

Leaves to others: who the SuperNode is, and which calls there are (`fleet_requests`).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
    PushObjectResponse,
)
from google.protobuf.message import DecodeError

from fedhealth.flower.fleet_requests import CONFIRM, PULL_OBJECT, PUSH, PUSH_OBJECT

MAX_PARTS = 512
"""Flower cuts a frame into parts of 5 MiB."""
_MOST_MESSAGES = 64
"""That are remembered of a site; its SuperNode takes in one at a time."""


@dataclass
class _Exchange:
    """A message that was announced, and its reply.

    Attributes:
        announced: ids of the message's parts.
        reply: id of the reply, once there is one.
        parts: of the reply, by their ids, and how long each is that has come.
        missing: ids of the parts that the SuperLink wants and has not got; None until it says which.
        has_ended: whether the SuperNode has asked for messages since: it has nothing under way then.
    """

    announced: frozenset[str]
    reply: str = ""
    parts: dict[str, int] = field(default_factory=dict)
    missing: set[str] | None = None
    has_ended: bool = False

    @property
    def has_whole_reply(self) -> bool:
        """Whether the SuperLink has all of a reply; who fetches it earlier waits for what may never come."""
        return self.missing is not None and not self.missing


class FleetFence:
    """What one site's SuperNode was told of since it began."""

    def __init__(self) -> None:
        self._longest_reply = 0
        self._exchanges: dict[str, _Exchange] = {}

    def begin(self) -> None:
        """Forget everything: a SuperNode begins, with an empty memory."""
        self._exchanges.clear()

    def expect(self, longest_reply: int) -> None:
        """Take note of how long replies may be from now on, whichever message they are to.

        All messages of a study may be answered alike, and studies run one after the other.

        Args:
            longest_reply: all parts of one together, in bytes; none at first.
        """
        self._longest_reply = longest_reply

    def announce(self, answer: bytes) -> frozenset[str]:
        """Take note of what the SuperLink answered to a question for messages, and return their ids."""
        try:
            told = PullMessagesResponse.FromString(answer)
        except DecodeError:
            return frozenset()  # then it was told of nothing
        for tree in told.message_object_trees:
            self._exchanges[tree.object_id] = _Exchange(frozenset(_ids(tree)))
            if len(self._exchanges) > _MOST_MESSAGES:
                del self._exchanges[next(iter(self._exchanges))]
        return frozenset(tree.object_id for tree in told.message_object_trees)

    def lets(self, path: str, node: int, body: bytes) -> bool:
        """Say whether a request may reach the SuperLink; a reply, or a part of one, is taken note of.

        Args:
            path: of the call.
            node: Flower's id of this site's node.
            body: of the request.
        """
        try:
            if path == PULL_OBJECT:
                wanted = PullObjectRequest.FromString(body).object_id
                return any(wanted in exchange.announced for exchange in self._exchanges.values())
            if path == CONFIRM:
                return ConfirmMessageReceivedRequest.FromString(body).message_object_id in self._exchanges
            if path == PUSH:
                return self._replies(PushMessagesRequest.FromString(body), node)
            return path != PUSH_OBJECT or self._adds(PushObjectRequest.FromString(body))
        except DecodeError:
            return False

    def take_in(self, path: str, body: bytes, answer: bytes) -> None:
        """Take note of what the SuperLink said to a reply or a part of one, which it did not refuse.

        Args:
            path: of the call.
            body: of the request, which was let through.
            answer: the SuperLink's.
        """
        with contextlib.suppress(DecodeError):  # a SuperLink that says something else has not said that it has it
            if path == PUSH:
                asked = PushMessagesRequest.FromString(body).messages_list[0].metadata.reply_to_message_id
                if (exchange := self._exchanges.get(asked)) is not None:
                    exchange.missing = set(PushMessagesResponse.FromString(answer).objects_to_push)
            elif path == PUSH_OBJECT and PushObjectResponse.FromString(answer).stored:
                for exchange in self._exchanges.values():
                    (exchange.missing or set()).discard(PushObjectRequest.FromString(body).object_id)

    def end(self) -> dict[str, bool]:
        """Take note that the SuperNode asks for messages, so that it has none under way any more.

        Returns:
            Each message that ended by it, and whether there is a whole reply; one without it the SuperNode has dropped.
        """
        ended = {name: exchange for name, exchange in self._exchanges.items() if not exchange.has_ended}
        for exchange in ended.values():
            exchange.has_ended = True
        return {name: exchange.has_whole_reply for name, exchange in ended.items()}

    def has_replied(self, message: str) -> bool | None:
        """Say of a message that has ended whether there is a whole reply; None of any other."""
        exchange = self._exchanges.get(message)
        return exchange.has_whole_reply if exchange is not None and exchange.has_ended else None

    def knows(self, message: str) -> bool:
        """Say whether a message was announced."""
        return message in self._exchanges

    def _replies(self, request: PushMessagesRequest, node: int) -> bool:
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            return False
        metadata, tree = request.messages_list[0].metadata, request.message_object_trees[0]
        exchange = self._exchanges.get(metadata.reply_to_message_id)
        if exchange is None or metadata.src_node_id != node or metadata.message_id != tree.object_id:
            return False
        if exchange.reply:
            return str(tree.object_id) == exchange.reply  # the same once more: its answer was lost
        parts = dict.fromkeys(_ids(tree), 0)
        if len(parts) > MAX_PARTS:
            return False
        exchange.reply, exchange.parts = tree.object_id, parts
        return True

    def _adds(self, request: PushObjectRequest) -> bool:
        name, size = request.object_id, len(request.object_content)
        for exchange in self._exchanges.values():
            if name in exchange.parts:
                others = sum(exchange.parts.values()) - exchange.parts[name]
                if others + size > self._longest_reply:
                    return False
                exchange.parts[name] = max(size, exchange.parts[name])
                return True
        return False


def _ids(tree: ObjectTree) -> Iterator[str]:
    yield tree.object_id
    for child in tree.children:
        yield from _ids(child)
