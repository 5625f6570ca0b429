"""A stock SuperLink and its SuperExec: started on loopback, watched, and started again when they end.

Everything of theirs is in one folder of the coordinator's home: the database, and, anew at each start, a certificate
for 127.0.0.1 and the secrets with which the Control API and the SuperExec are kept for this coordinator. Nothing that a
study needs is in there: without it, keys are registered again and frames are asked again.

Leaves to others: who may register (`node_keys`), and what runs on it (`superlink_run`).
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path

from fedhealth.coordinator.carried_frames import SOCKET
from fedhealth.errors import FederationFailed, LinkUnavailable
from fedhealth.flower.stock_process import CONTROL_SECRET, stock_command, stock_environment
from fedhealth.flower.superlink_control import SuperLinkControl, is_guarded
from fedhealth.flower.superlink_database import check_database
from fedhealth.pki.loopback import LOOPBACK, loopback_certificate
from fedhealth.secret_file import PUBLIC_MODE, SECRET_MODE, replace_file

_LOG = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long a SuperLink may take until it answers; 1.2 s on an idle machine."""
MOST_LOG_BYTES, LOG_SECONDS = 16 * 2**20, 10.0
"""How long a log may get, and how often that is looked at; Flower's own has no bound."""
_LOOK_SECONDS = 0.05
_STOP_SECONDS = 2.0
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS, _STEADY_SECONDS = 0.1, 5.0, 30.0
"""How long after its end a process is started again: twice as long each time, until one has lasted."""


class SuperLinkProcesses:
    """The two processes; all methods belong to one event loop.

    Args:
        folder: made if it must be.
        frames: the socket that its apps find the coordinator at.
        port: of loopback, where the SuperLink listens; 0 takes a free one.
    """

    def __init__(self, folder: Path, frames: Path, port: int = 0) -> None:
        self._folder, self._frames, self._port = folder, frames, port
        self._secret = secrets.token_hex(32)
        self._keepers: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.subprocess.Process] = {}

    @property
    def address(self) -> str:
        """Where the SuperLink listens."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def certificate(self) -> bytes:
        """What it shows, PEM; nobody else can show it."""
        return self._certificate.read_bytes()

    def control(self) -> SuperLinkControl:
        """Return its Control API."""
        return SuperLinkControl(self.address, self.certificate, self._secret)

    def process_ids(self) -> dict[str, int]:
        """Return the id of each process that runs now, by its program's name."""
        return {name: process.pid for name, process in self._running.items() if process.returncode is None}

    async def start(self) -> None:
        """Start both, and return when the SuperLink answers.

        Raises:
            ConfigInvalid: the database is another version's.
            LinkUnavailable: the port is in use.
            FederationFailed: it ended early or does not answer, or it would let a stranger start an app.
        """
        check_database(self._folder / "state.db")
        self._port = _free_port(self._port)
        self._prepare()
        try:
            await self._spawn("flower-superlink")
            await self._answers()
            if not await asyncio.to_thread(is_guarded, self.address, self.certificate):
                raise FederationFailed(
                    "the SuperLink would let anybody on this machine start an app on it",
                    wanted="a refusal without the coordinator's secret",
                    next_step="Use the version of Flower that this release was tested with; nothing was started.",
                )
            await self._spawn("flower-superexec")
        except BaseException:
            await self.stop()
            raise
        self._keepers = [asyncio.create_task(self._keep(name)) for name in self._running]
        self._keepers += [asyncio.create_task(self._bound_log(name)) for name in self._running]

    async def stop(self) -> None:
        """End both, and the apps that they started."""
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()
        for process in reversed(self._running.values()):
            await _end(process)
        self._running.clear()

    @property
    def _certificate(self) -> Path:
        return self._folder / "certificate"

    def _prepare(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        key, certificate = loopback_certificate("flower-superlink", datetime.now(UTC))
        replace_file(self._folder / "certificate.key", key, SECRET_MODE)
        replace_file(self._certificate, certificate, PUBLIC_MODE)
        replace_file(self._folder / "control.secret", self._secret.encode(), SECRET_MODE)
        replace_file(self._folder / "superexec.secret", secrets.token_bytes(32), SECRET_MODE)
        for program in ("flower-superlink", "flower-superexec"):
            self._log(program).unlink(missing_ok=True)  # the one that was put aside stays

    def _log(self, program: str) -> Path:
        return self._folder / f"{program}.log"

    def _command(self, program: str) -> list[str]:
        certificate, secret = str(self._certificate), str(self._folder / "superexec.secret")
        if program == "flower-superexec":
            return stock_command(
                program,
                *("--runtime-api-address", self.address, "--root-certificates", certificate),
                *("--superexec-auth-secret-file", secret),
            )
        return stock_command(
            program,
            *("--host", LOOPBACK, "--port", str(self._port), "--database", str(self._folder / "state.db")),
            *("--ssl-certfile", certificate, "--ssl-keyfile", f"{certificate}.key", "--ssl-ca-certfile", certificate),
            *("--enable-supernode-auth", "--isolation", "process", "--superexec-auth-secret-file", secret),
            "--disable-runtime-dependency-installation",
        )

    async def _spawn(self, program: str) -> None:
        settings = {CONTROL_SECRET: str(self._folder / "control.secret"), SOCKET: str(self._frames)}
        with self._log(program).open("ab") as log:
            self._running[program] = await asyncio.create_subprocess_exec(
                *self._command(program),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the coordinator, which ends them in order
                env=stock_environment(self._folder / "flower", **settings),
            )

    async def _answers(self) -> None:
        """Wait until the SuperLink answers."""
        process, control = self._running["flower-superlink"], self.control()
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        try:
            while True:
                with contextlib.suppress(FederationFailed):
                    await asyncio.to_thread(control.nodes)
                    return
                if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                    lines = self._log("flower-superlink").read_text(errors="replace").strip().splitlines()
                    raise FederationFailed(
                        "the SuperLink does not answer",
                        got=" | ".join(lines[-3:])[-500:] or "nothing",
                        next_step=f"Its log: {self._log('flower-superlink')}",
                    )
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            control.close()

    async def _keep(self, program: str) -> None:
        """Start a program again whenever it ends."""
        loop, delay = asyncio.get_running_loop(), _FIRST_DELAY_SECONDS
        while True:
            began = loop.time()
            await self._running[program].wait()
            delay = _FIRST_DELAY_SECONDS if loop.time() - began > _STEADY_SECONDS else delay
            _LOG.warning("'%(service)s' ended and is started again", {"service": program})
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)
            await self._spawn(program)

    async def _bound_log(self, program: str) -> None:
        """Keep what a program writes from filling the disk, by which it would stop the coordinator too."""
        while True:
            await asyncio.sleep(LOG_SECONDS)
            with contextlib.suppress(OSError):
                bound_log(self._log(program))


def bound_log(path: Path, most: int = MOST_LOG_BYTES) -> None:
    """Put a log aside, in the place of the one before, once it is longer than it may be.

    Whoever writes it appends, and so goes on at the start of the file that is empty now; lines that come in between
    are lost.
    """
    if path.stat().st_size > most:
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)


def _free_port(port: int) -> int:
    """Return a port of loopback that is free now; the one given unless it is 0.

    Raises:
        LinkUnavailable: the one given is in use.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the SuperLink does
        try:
            trial.bind((LOOPBACK, port))
        except OSError as error:
            raise LinkUnavailable(
                f"the SuperLink cannot listen at {LOOPBACK}:{port}",
                got=error.strerror or "an error",
                wanted="a free port",
                next_step="Stop the program that uses it (ss -ltnp shows which), or let a free one be taken: port 0.",
            ) from error
        return int(trial.getsockname()[1])


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()  # its lifeline
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
