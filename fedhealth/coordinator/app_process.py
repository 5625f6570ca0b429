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
from tempfile import TemporaryDirectory

from fedhealth.coordinator.app_frames import Question, ReplyHeader, unpack_question
from fedhealth.link.frames import MAX_FRAME_BYTES, pack
from fedhealth.link.memory import Buffer

AnswerApp = Callable[[Question, Buffer], Awaitable[tuple[ReplyHeader, Buffer]]]


async def run_server_app(output: Path, answer: AnswerApp) -> int:
    """Run the ServerApp until it ends, and return its exit status.

    Args:
        output: folder that it writes the model into.
        answer: answers each of its questions.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(reader, writer, answer)

    with TemporaryDirectory(prefix="fedhealth-app-") as folder:
        path = Path(folder) / "app.sock"
        server = await asyncio.start_unix_server(serve, path=str(path), limit=MAX_FRAME_BYTES)
        path.chmod(0o600)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "fedhealth.coordinator.server_app", str(path), str(output)),
            stdin=asyncio.subprocess.PIPE,
        )
        try:
            return await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            server.close()


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
