"""Flower's own programs, run as they are, as children that end with their parent.

`python -m fedhealth.flower.stock_process PROGRAM ARGUMENTS...` runs the stock main function of `flower-superlink`,
`flower-superexec` or `flower-supernode`. What is added: it ends when its standard input closes, and before the
SuperLink begins, its Control API is closed to whoever has not the secret (`superlink_guard`).

Source: the console scripts of Flower 1.41, and the environment variables that it documents; a contract test holds both.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

CONTROL_SECRET = "FEDHEALTH_CONTROL_SECRET"  # noqa: S105 - the name of a variable
"""In the SuperLink's environment: the file with the secret that callers of its Control API must show."""

_PROGRAMS = {
    "flower-superlink": ("flwr.superlink.cli", "flower_superlink"),
    "flower-superexec": ("flwr.supercore.cli", "flower_superexec"),
    "flower-supernode": ("flwr.supernode.cli", "flower_supernode"),
}


def stock_command(program: str, *arguments: str) -> list[str]:
    """Return the command line that runs one of Flower's programs; its standard input must be a pipe held open."""
    return [sys.executable, "-P", "-m", "fedhealth.flower.stock_process", program, *arguments]


def stock_environment(flower_home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a Flower process: nothing is reported, looked up or installed by it.

    Nor does it go through a proxy: what it speaks to is on this machine.

    Args:
        flower_home: where Flower keeps configuration and bundles.
        more: further variables.
    """
    left_out = ("FLWR_", "FLOWER_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(left_out)}
    folder = str(Path(sys.executable).parent)  # Flower starts its apps by name; they must be of this installation
    return kept | {
        "PATH": os.pathsep.join([folder, *filter(None, [kept.get("PATH")])]),
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOG_LEVEL": "WARNING",  # at INFO each request is a line
        **more,
    }


def main(arguments: list[str], *, lifeline: bool = True) -> None:
    """Run a program of Flower's until it ends; this process ends with it.

    Args:
        arguments: the program's name, and its own.
        lifeline: end when standard input closes, too; a service manager gives none.

    A SuperNode whose main thread fails would be kept by its other threads for ever, alive and doing nothing.
    """
    code: object = 1
    try:
        _run(lifeline, *arguments)
        code = 0
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)  # noqa: T201 - as Python itself would
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def _run(lifeline: bool, program: str, *arguments: str) -> None:
    if lifeline:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    module, function = _PROGRAMS[program]
    if program == "flower-superlink":
        from fedhealth.flower.superlink_guard import install_guard

        install_guard(Path(os.environ[CONTROL_SECRET]).read_text())
    sys.argv = [program, *arguments]
    cast(Callable[[], None], getattr(import_module(module), function))()


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
