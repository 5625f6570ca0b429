"""A coordinator's border that listens on this machine, and what runs beside it while a test looks."""

import asyncio
import contextlib

from fedhealth.coordinator.border import Border


@contextlib.asynccontextmanager
async def border(home, enrolment=None):
    """Open a border; yields its link and its address."""
    made = Border(home)
    port = await made.start("127.0.0.1:0", enrolment)
    try:
        yield made.link, f"127.0.0.1:{port}"
    finally:
        await made.stop()


@contextlib.asynccontextmanager
async def running(work):
    """Run a coroutine until the block ends; yields its task."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition, seconds=60.0):
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
