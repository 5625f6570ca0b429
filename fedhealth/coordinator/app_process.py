"""The process of a study's ServerApp, and the Unix socket on which it asks the coordinator.

The socket lies in a folder of this user alone, and goes with the process. What is asked and answered is in
`app_frames`; what an answer takes is left to the caller.
"""

import asyncio
import contextlib
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from fedhealth.coordinator.app_frames import Question, ReplyHeader, unpack_question
from fedhealth.link.frames import MAX_FRAME_BYTES, pack
from fedhealth.link.memory import Buffer
from fedhealth.unix_socket import SocketFolder

AnswerApp = Callable[[Question, Buffer], Awaitable[tuple[ReplyHeader, Buffer]]]


async def run_server_app(output: Path, answer: AnswerApp) -> int:
    """Run the ServerApp until it ends, and return its exit status; nothing of it is being answered any more then.

    Args:
        output: folder that it writes checkpoint and model into.
        answer: answers each of its questions.

    Raises:
        FedHealthError: a question could not be answered; the process was ended.
    """
    answering = set[asyncio.Task[None]]()
    failure = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as one
        answering.add(task)
        try:
            await _serve(reader, writer, answer)
        except asyncio.CancelledError:
            return  # asyncio's streams take a task that was cancelled for a defect
        except Exception as error:
            if not failure.done():
                failure.set_exception(error)
        finally:
            answering.discard(task)

    with SocketFolder("fedhealth-app-") as folder:
        path = folder / "app.sock"
        server = await asyncio.start_unix_server(serve, path=str(path), limit=MAX_FRAME_BYTES)
        path.chmod(0o600)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "fedhealth.coordinator.server_app", str(path), str(output)),
            stdin=asyncio.subprocess.PIPE,
        )
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait([ended, failure], return_when=asyncio.FIRST_COMPLETED)
            if failure.done():
                failure.result()
            return await ended
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await ended
            server.close()
            for task in list(answering):
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)
            failure.cancel()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: AnswerApp) -> None:
    try:
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            if length > MAX_FRAME_BYTES:
                return
            question, body = unpack_question(await reader.readexactly(length))
            header, reply = await answer(question, body)
            frame = pack(header, reply)
            writer.write(struct.pack("!I", len(frame)) + frame)
            await writer.drain()
    except (EOFError, OSError):
        pass
    finally:
        writer.close()
