"""The researcher's end of the research socket: submit, list, watch, stop, results.

Every function is one question. An error that the coordinator declines with is raised here as the same error.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.coordinator.research_frames import (
    LENGTH,
    Fetch,
    File,
    Files,
    Happened,
    ListResults,
    ListStudies,
    Over,
    Question,
    Reply,
    Stop,
    Studies,
    Submit,
    Summary,
    Watch,
    check_reply_length,
    pack_sized,
    unpack_reply,
    unpack_summaries,
)
from fedhealth.coordinator.run_folder import SEAL, open_seal, sha256_of
from fedhealth.declined import Declined
from fedhealth.errors import ConfigInvalid, FederationFailed, FedHealthError, IdentityInvalid, LinkUnavailable
from fedhealth.secret_file import PUBLIC_MODE, replace_file
from fedhealth.study.signature import sign_stop
from fedhealth.unix_socket import receive_exactly

_ANSWER_SECONDS = 60.0
_ERRORS = (ConfigInvalid, FederationFailed, IdentityInvalid, LinkUnavailable)
_Reply = TypeVar("_Reply", bound=Reply)


def submit_study(path: Path, signed_study: bytes) -> Summary:
    """Hand a signed study to the coordinator; the same study again changes nothing.

    Args:
        path: the coordinator's research socket.
        signed_study: its bytes, as `sign_study` made them.

    Raises:
        IdentityInvalid: its signature does not hold.
        ConfigInvalid: another researcher submitted it, or too many studies wait.
        LinkUnavailable: the coordinator does not answer.
    """
    return unpack_summaries(_ask(path, Submit(), Studies, signed_study)[1])[0]


def list_studies(path: Path) -> tuple[Summary, ...]:
    """Return the coordinator's studies, in the order in which they came."""
    return unpack_summaries(_ask(path, ListStudies(), Studies)[1])


def watch_study(path: Path, study: str, after: int = 0) -> Iterator[Happened | Over]:
    """Yield what happened to a study since an event, and what happens, until it is over.

    Args:
        path: the coordinator's research socket.
        study: the first digits of its digest.
        after: number of the last event that was seen.

    Raises:
        ConfigInvalid: there is no such study.
        LinkUnavailable: the coordinator does not answer.
    """
    question = Watch(study=_prefix(study), after=after)
    with _connected(path) as connection:
        connection.sendall(pack_sized(question))
        connection.settimeout(None)  # a study takes its time
        while True:
            reply, _ = _read(connection)
            if not isinstance(reply, Happened | Over):
                raise _unexpected(reply)
            yield reply
            if isinstance(reply, Over):
                return


def stop_study(path: Path, study: str, key: Ed25519PrivateKey | None) -> Summary:
    """Stop a study for ever, by the key that signed it, or as the coordinator's operator.

    Args:
        path: the coordinator's research socket.
        study: the first digits of its digest.
        key: the researcher's; None for the operator, the Unix user whose process the coordinator is.

    Raises:
        IdentityInvalid: it is not the key that signed the study; or there is none, and this is another user.
        ConfigInvalid: there is no such study, or it is over.
    """
    prefix = _prefix(study)
    found = [each.study for each in list_studies(path) if each.study.startswith(prefix)]
    if len(found) != 1:
        raise ConfigInvalid(
            f"{len(found) or 'no'} studies have a digest that begins with {study}",
            next_step="Name one: fedhealth study list --help.",
        )
    signature = None if key is None else sign_stop(found[0], key)
    return unpack_summaries(_ask(path, Stop(study=found[0], signature=signature), Studies)[1])[0]


def list_results(path: Path, study: str) -> dict[str, int]:
    """Return the published files of a study that is done, by name, with their sizes in bytes."""
    return _ask(path, ListResults(study=_prefix(study)), Files)[0].files


def fetch_results(path: Path, study: str, folder: Path) -> tuple[Path, ...]:
    """Fetch all that was published of a study into a folder, and hold it against the coordinator's seal.

    Raises:
        IdentityInvalid: a file is not what the seal says.
        ConfigInvalid: the study has no results, or no more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched, names = [], list_results(path, study)
    if SEAL not in names:
        raise IdentityInvalid("the coordinator hands out no seal of this study", next_step="Ask its operator for it.")
    for name in names:
        _, content = _ask(path, Fetch(study=_prefix(study), name=name), File)
        replace_file(folder / name, content, PUBLIC_MODE)
        fetched.append(folder / name)
    for name, sha256 in open_seal((folder / SEAL).read_bytes()).contents.files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != sha256:
            raise IdentityInvalid(
                f"{folder / name} is not what the coordinator sealed", next_step="Fetch the results again."
            )
    return tuple(fetched)


def _prefix(study: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{4,64}", study.lower()):
        raise ConfigInvalid(
            "a study is named by the first digits of its digest",
            got=study,
            wanted="4 to 64 of the digits 0 to 9 and a to f",
            next_step="They are the first word of each line of: fedhealth study list",
        )
    return study.lower()


def _ask(path: Path, question: Question, wanted: type[_Reply], body: bytes = b"") -> tuple[_Reply, bytes]:
    with _connected(path) as connection:
        connection.sendall(pack_sized(question, body))
        reply, content = _read(connection)
    if not isinstance(reply, wanted):
        raise _unexpected(reply)
    return reply, content


def _unexpected(reply: Reply) -> FedHealthError:
    if isinstance(reply, Declined):
        return reply.carried(_ERRORS, FederationFailed)
    return LinkUnavailable("the coordinator answered something else", got=reply.kind)


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(path))
            yield connection
        except OSError as error:
            raise LinkUnavailable(
                f"the coordinator does not answer at {path}",
                got=error.strerror or type(error).__name__,
                next_step="Is `fedhealth coordinator serve` running, may you use its socket, and is its ssh tunnel up?",
            ) from error


def _read(connection: socket.socket) -> tuple[Reply, bytes]:
    (length,) = LENGTH.unpack(receive_exactly(connection, LENGTH.size))
    return unpack_reply(receive_exactly(connection, check_reply_length(length)))
