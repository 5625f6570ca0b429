"""Flower's `Grid` over the link: a strategy's messages become questions to gates, and releases become replies.

One Flower node per site; node ids are the sites' places in alphabetical order, from 1. Replies come back in that
order, so that a strategy always combines in the same order and a repeated round sends the same bytes. A site that
does not give a release is answered with a Flower error whose reason is its public code.

What a message means in bytes is the codec's business; how a site is asked, that of `ask`.

Source: `flwr.serverapp.Grid`, Flower 1.41.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from flwr.app import DEFAULT_TTL, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE_ID = 0
REFUSED_ERROR_CODE = 1
"""Flower's `Error.code` of every reply without a release; the reason holds the public code."""


class NotReleased(Exception):
    """A site gave no release.

    Args:
        code: one of `RefusalCode`, or "away".
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


Question = tuple[str, str, int, bytes]
"""A site, a step, a round and the step's input."""

AskAll = Callable[[Sequence[Question]], Iterable[bytes | NotReleased]]
"""Ask many sites at once; the answers come in the order of the questions."""

Ask = Callable[[str, str, int, bytes], bytes]
"""Ask (site, step, round, input) for a payload; raises `NotReleased`."""


class Codec(Protocol):
    """What messages mean in bytes, for one study."""

    def encode(self, message: Message) -> tuple[str, int, bytes]:
        """Return the step, the round and the input that a message asks for."""
        ...

    def decode(self, site: str, message: Message, payload: bytes) -> RecordDict:
        """Return the reply's content from a release."""
        ...


def set_task_identity(run_id: int) -> None:
    """Tell Flower who this process is; a ServerApp has a process of its own because this is process-wide."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, SERVER_NODE_ID


class LinkGrid(Grid):
    """A Grid whose nodes are sites.

    Args:
        sites: ids of the sites that take part.
        ask: asks one site; called from several threads at once.
        codec: of the study.
    """

    def __init__(self, sites: Sequence[str], ask: Ask, codec: Codec) -> None:
        self._sites = dict(enumerate(sorted(sites), start=1))
        self._ask, self._codec = ask, codec
        self._run = Run.create_empty(TaskIdentity.run_id)
        self._replies: dict[str, Message] = {}
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self._sites)), thread_name_prefix="ask")
        self._sent = 0

    def site_of(self, node_id: int) -> str:
        """Return the site behind a Flower node id."""
        return self._sites[node_id]

    def set_run(self, run: Run) -> None:
        """Set the run; only its id matters here."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a site."""
        return Message(
            content,
            dst_node_id=dst_node_id,
            message_type=message_type,
            group_id=group_id,
            ttl=ttl or DEFAULT_TTL,
        )

    def get_node_ids(self) -> Iterable[int]:
        """Get the node ids, in the order of the sites' names."""
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Ask all sites side by side, wait for their answers, and keep them for `pull_messages`."""
        batch, ids = list(messages), []
        questions: list[Question] = []
        for message in batch:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = str(self._sent)
            ids.append(str(self._sent))
            questions.append((self._sites[message.metadata.dst_node_id], *self._codec.encode(message)))
        # Only the waiting is done side by side. Flower reads arrays with `numpy.load`, whose `ast.literal_eval` fails
        # now and then in threads of Python 3.11 (CPython issue 106905).
        answers = self._answers(questions)
        for name, message, (site, *_), answer in zip(ids, batch, questions, answers, strict=True):
            self._replies[name] = self._reply(message, site, answer)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages in the order of their sites; each can be pulled once."""
        replies = [self._replies.pop(name) for name in message_ids if name in self._replies]
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Ask all sites and return every reply; how long a site may take is decided by `ask`."""
        return self.pull_messages(self.push_messages(messages))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _answers(self, questions: Sequence[Question]) -> Iterable[bytes | NotReleased]:
        return self._pool.map(self._payload, questions)

    def _payload(self, question: Question) -> bytes | NotReleased:
        try:
            return self._ask(*question)
        except NotReleased as refusal:
            return refusal

    def _reply(self, message: Message, site: str, answer: bytes | NotReleased) -> Message:
        try:
            if isinstance(answer, NotReleased):
                raise answer
            return Message(self._codec.decode(site, message, answer), reply_to=message)
        except NotReleased as refusal:
            return Message(Error(code=REFUSED_ERROR_CODE, reason=refusal.code), reply_to=message)


class BatchGrid(LinkGrid):
    """A Grid that hands all questions of a round over at once: no thread waits for a site.

    Args:
        sites: ids of the sites that take part.
        ask_all: asks them.
        codec: of the study.
    """

    def __init__(self, sites: Sequence[str], ask_all: AskAll, codec: Codec) -> None:
        super().__init__(sites, self._ask_one, codec)
        self._ask_all = ask_all

    def _answers(self, questions: Sequence[Question]) -> Iterable[bytes | NotReleased]:
        return self._ask_all(questions)

    def _ask_one(self, site: str, step: str, number: int, data: bytes) -> bytes:
        (answer,) = self._ask_all([(site, step, number, data)])
        if isinstance(answer, NotReleased):
            raise answer
        return answer
