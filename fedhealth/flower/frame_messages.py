"""One frame of the gate's as the content of one Flower message, for `engine = "superlink"`.

A content is a `RecordDict` with one record, named `frame`, that holds the bytes as they would cross the link, in no
format of numpy's, so that nothing on the way parses them: a `ConfigRecord` with one value for a frame of at most
`SMALL_BYTES`, an `ArrayRecord` with one `Array` for a larger one, which Flower cuts into parts. Flower sends a message
as objects, one request for each at each end, and a record of one value is one object where an array is three: most of a
round's time is such requests. The reply has the same form. Both ends read strictly: each length has one form, and
whatever else a content holds makes all of it refused, so that a message says nothing beside its frame.

Leaves to others: what frames mean (`fedhealth.link.frames`), and what a message is beside its content: Flower's ids,
names and times, which neither end reads.
"""

from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, RecordDict

FRAME_MESSAGE = MessageType.QUERY
"""The type of every message that carries a frame; a site answers no other."""

RECORD = "frame"
SMALL_BYTES = 2**20
_DTYPE, _FORMAT = "uint8", "fedhealth.frame"


class NotOneFrame(ValueError):
    """A message holds something other than one frame."""


def to_content(frame: bytes) -> RecordDict:
    """Return the content that carries a frame.

    Args:
        frame: at least one byte, as the link would carry it.
    """
    if len(frame) <= SMALL_BYTES:
        return RecordDict({RECORD: ConfigRecord({RECORD: frame})})
    return RecordDict({RECORD: ArrayRecord({RECORD: Array(_DTYPE, (len(frame),), _FORMAT, frame)})})


def frame_of(content: RecordDict, longest: int) -> bytes:
    """Return the frame that a content carries.

    Args:
        content: of a message.
        longest: in bytes; a longer frame is refused.

    Raises:
        NotOneFrame: the content is anything but one frame of 1 to `longest` bytes.
    """
    record = content.get(RECORD)
    if list(content) != [RECORD] or not isinstance(record, ArrayRecord | ConfigRecord) or list(record) != [RECORD]:
        raise NotOneFrame("a message that holds something beside one frame")
    held = record[RECORD]
    if isinstance(held, Array):
        form, frame = (held.dtype, tuple(held.shape), held.stype), held.data
        is_frame = form == (_DTYPE, (len(frame),), _FORMAT) and len(frame) > SMALL_BYTES
    else:
        frame = held if isinstance(held, bytes) else b""
        is_frame = 1 <= len(frame) <= SMALL_BYTES
    if not is_frame or len(frame) > longest:
        raise NotOneFrame(f"something else than a frame of 1 to {longest} bytes in its one form")
    return frame
