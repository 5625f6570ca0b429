"""`fedhealth <role> <verb>`: the entry point, and how errors reach a person.

A mistake of the user is one message (what, got, wanted, next step) on standard error and a stable exit code; a
traceback is a defect. The commands are imported inside `main`, so that Ctrl-C while they load is only Ctrl-C; their
own modules inside each, so that `audit verify` loads no torch.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from fedhealth.errors import INTERRUPTED_EXIT_CODE, ConfigInvalid, FedHealthError


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = _run()
    except FedHealthError as error:
        code = _say(error)
    except KeyboardInterrupt:
        code = INTERRUPTED_EXIT_CODE
    except OSError as error:
        if error.filename is None:
            raise
        code = _say(
            ConfigInvalid(
                f"cannot use {error.filename}",
                got=error.strerror or type(error).__name__,
                next_step="Check the path, its permissions and the disk.",
            )
        )
    if code == INTERRUPTED_EXIT_CODE:
        _leave()
    sys.exit(code)


def _leave() -> NoReturn:
    """End on the spot: all that was open is closed, and taking the modules down takes seconds on a busy machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient person presses again
    import logging

    from fedhealth.cli.output import stopped_line

    sys.stderr.write(stopped_line())
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(INTERRUPTED_EXIT_CODE)


def _run() -> int:
    import logging

    import click

    from fedhealth.cli.commands import app
    from fedhealth.cli.output import begin, complain_of_usage
    from fedhealth.local_log import FieldFormatter

    begin(sys.argv[1:])
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        return app(prog_name="fedhealth", standalone_mode=False) or 0
    except click.UsageError as error:
        return complain_of_usage(error)
    except click.Abort:
        return INTERRUPTED_EXIT_CODE


def _say(error: FedHealthError) -> int:
    from fedhealth.cli.output import complain

    return complain(error)


if __name__ == "__main__":
    main()
