"""A frame as a Flower message: its bytes come out again, through Flower's serialisation too, and nothing else does."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedhealth.flower.frame_messages import FRAME_MESSAGE, SMALL_BYTES, NotOneFrame, frame_of, to_content
from fedhealth.flower.link_grid import set_task_identity

LARGE = b"x" * (SMALL_BYTES + 1)
LONGEST = len(LARGE)
# A frame, and the objects that Flower makes of its message: the message, its records, the record, and of an array
# itself and its parts.
FRAMES = {
    "a byte": (b"\0", 3),
    "what numpy would read": (b"\x93NUMPY", 3),
    "every byte": (bytes(range(256)), 3),
    "the longest small one": (b"x" * SMALL_BYTES, 3),
    "a large one": (LARGE, 5),
}


@pytest.mark.parametrize(("frame", "objects"), FRAMES.values(), ids=FRAMES)
def test_a_frame_comes_out_as_it_went_in_through_the_objects_that_flower_sends(frame, objects):
    assert frame_of(to_content(frame), LONGEST) == frame
    set_task_identity(run_id=1)
    message = Message(to_content(frame), dst_node_id=1, message_type=FRAME_MESSAGE)
    sent = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    assert len(sent) == objects
    assert frame_of(inflate_object_from_contents(message.object_id, sent).content, LONGEST) == frame


def array(data=LARGE, dtype="uint8", shape=None, stype="fedhealth.frame"):
    return Array(dtype, (len(data),) if shape is None else shape, stype, data)


def record(**arrays):
    return ArrayRecord(arrays or {"frame": array()})


def small(**values):
    return ConfigRecord(values or {"frame": b"abc"})


REFUSED = {
    "nothing": {},
    "another name": {"other": small()},
    "a second record": {"frame": small(), "more": small()},
    "a configuration beside it": {"frame": record(), "config": ConfigRecord({"round": 1})},
    "metrics beside it": {"frame": small(), "metrics": MetricRecord({"loss": 1.0})},
    "metrics in its place": {"frame": MetricRecord({"frame": 1.0})},
    "no value": {"frame": ConfigRecord()},
    "a value of another name": {"frame": small(other=b"abc")},
    "a second value": {"frame": small(frame=b"abc", more=b"abc")},
    "a text": {"frame": small(frame="abc")},
    "a list": {"frame": small(frame=[b"abc"])},
    "no bytes in a value": {"frame": small(frame=b"")},
    "a large frame as a value": {"frame": small(frame=LARGE)},
    "a small frame as an array": {"frame": record(frame=array(b"abc"))},
    "no array": {"frame": ArrayRecord()},
    "an array of another name": {"frame": record(other=array())},
    "a second array": {"frame": record(frame=array(), more=array())},
    "another type": {"frame": record(frame=array(dtype="float32"))},
    "another shape": {"frame": record(frame=array(shape=(1, len(LARGE))))},
    "a shape that is not its length": {"frame": record(frame=array(shape=(4,)))},
    "an array of numpy's": {"frame": record(frame=array(stype="numpy.ndarray"))},
    "no bytes": {"frame": record(frame=array(data=b""))},
    "a byte too many": {"frame": record(frame=array(data=LARGE + b"x"))},
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_whatever_is_not_one_frame_is_refused(content):
    with pytest.raises(NotOneFrame):
        frame_of(RecordDict(content), LONGEST)


def test_a_small_frame_that_is_longer_than_was_asked_for_is_refused():
    with pytest.raises(NotOneFrame):
        frame_of(to_content(b"abcd"), 3)
    assert frame_of(to_content(b"abc"), 3) == b"abc"
