"""The ClientApp of `engine = "superlink"`: one frame in, the gate's answer out.

It has no data, no key and no torch. Of a message it reads the one frame in its content, and nothing else: not the run's
configuration, not its type, name, number or time. So what a gate is asked, and answers, is what it would be over the
link, and whatever this process does otherwise is as if the coordinator had asked otherwise.

Two answers are Flower errors, both independent of patients: `bad-request` to a message that does not hold one frame,
and `away` where the node or the gate does not answer.

The environment names the node's socket (`FRAME_SOCKET`).
"""

import os
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedhealth.errors import LinkUnavailable, RefusalCode
from fedhealth.flower.frame_messages import NotOneFrame, frame_of, to_content
from fedhealth.flower.link_grid import REFUSED_ERROR_CODE
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.site.frame_socket import exchange_frame

FRAME_SOCKET = "FEDHEALTH_FRAME_SOCKET"
AWAY = "away"

app = ClientApp()


@app.train()
@app.evaluate()
@app.query()
def carry(message: Message, _context: Context) -> Message:
    """Carry the frame of a message to the gate and its answer back."""
    try:
        frame = frame_of(message.content, MAX_FRAME_BYTES) if message.has_content() else b""
        if not frame:
            return _refused(message, RefusalCode.BAD_REQUEST)
        return Message(to_content(exchange_frame(Path(os.environ[FRAME_SOCKET]), frame)), reply_to=message)
    except NotOneFrame:
        return _refused(message, RefusalCode.BAD_REQUEST)
    except LinkUnavailable:
        return _refused(message, AWAY)


def _refused(message: Message, code: str) -> Message:
    return Message(Error(code=REFUSED_ERROR_CODE, reason=str(code)), reply_to=message)
