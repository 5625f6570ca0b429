"""A frame as a Flower message: its bytes come out again, through Flower's serialisation too, and nothing else does."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedhealth.flower.frame_messages import FRAME_MESSAGE, NotOneFrame, frame_of, to_content
from fedhealth.flower.link_grid import set_task_identity

LONGEST = 1000


@pytest.mark.parametrize("frame", [b"\0", b"\x93NUMPY", bytes(range(256)), b"x" * LONGEST])
def test_a_frame_comes_out_as_it_went_in(frame):
    assert frame_of(to_content(frame), LONGEST) == frame


def test_a_frame_comes_out_of_the_objects_that_flower_sends():
    set_task_identity(run_id=1)
    message = Message(to_content(b"question"), dst_node_id=1, message_type=FRAME_MESSAGE)
    sent = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    arrived = inflate_object_from_contents(message.object_id, sent)
    assert frame_of(arrived.content, LONGEST) == b"question"


def array(data=b"abc", dtype="uint8", shape=None, stype="fedhealth.frame"):
    return Array(dtype, (len(data),) if shape is None else shape, stype, data)


def record(**arrays):
    return ArrayRecord(arrays or {"frame": array()})


REFUSED = {
    "nothing": {},
    "another name": {"other": record()},
    "a second record": {"frame": record(), "more": record()},
    "a configuration beside it": {"frame": record(), "config": ConfigRecord({"round": 1})},
    "metrics beside it": {"frame": record(), "metrics": MetricRecord({"loss": 1.0})},
    "metrics in its place": {"frame": MetricRecord({"frame": 1.0})},
    "no array": {"frame": ArrayRecord()},
    "an array of another name": {"frame": record(other=array())},
    "a second array": {"frame": record(frame=array(), more=array())},
    "another type": {"frame": record(frame=array(dtype="float32"))},
    "another shape": {"frame": record(frame=array(shape=(1, 3)))},
    "a shape that is not its length": {"frame": record(frame=array(shape=(4,)))},
    "an array of numpy's": {"frame": record(frame=array(stype="numpy.ndarray"))},
    "no bytes": {"frame": record(frame=array(data=b""))},
    "a byte too many": {"frame": record(frame=array(data=b"x" * (LONGEST + 1)))},
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_whatever_is_not_one_frame_is_refused(content):
    with pytest.raises(NotOneFrame):
        frame_of(RecordDict(content), LONGEST)
