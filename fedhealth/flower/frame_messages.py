"""One frame of the gate's as the content of one Flower message, for `engine = "superlink"`.

A content is a `RecordDict` with one `ArrayRecord` with one `Array`, named `frame`: bytes as they would cross the link,
in no format of Flower's or numpy's, so that nothing on the way parses them. The reply has the same form. Both ends read
strictly: whatever else a content holds makes all of it refused, so that a message says nothing beside its frame.

Leaves to others: what frames mean (`fedhealth.link.frames`), and what a message is beside its content: Flower's ids,
names and times, which neither end reads.
"""

from flwr.app import Array, ArrayRecord, MessageType, RecordDict

FRAME_MESSAGE = MessageType.QUERY
"""The type of every message that carries a frame; a site answers no other."""

RECORD = "frame"
_DTYPE, _FORMAT = "uint8", "fedhealth.frame"


class NotOneFrame(ValueError):
    """A message holds something other than one frame."""


def to_content(frame: bytes) -> RecordDict:
    """Return the content that carries a frame.

    Args:
        frame: at least one byte, as the link would carry it.
    """
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
    if list(content) != [RECORD] or not isinstance(record, ArrayRecord) or list(record) != [RECORD]:
        raise NotOneFrame("a message that holds something beside one frame")
    array = record[RECORD]
    if not 1 <= len(array.data) <= longest:
        raise NotOneFrame(f"a frame of {len(array.data)} bytes, wanted 1 to {longest}")
    if (array.dtype, tuple(array.shape), array.stype) != (_DTYPE, (len(array.data),), _FORMAT):
        raise NotOneFrame("a frame in another format")
    return array.data
