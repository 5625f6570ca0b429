import json
import math

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.canonical import canonical_bytes, digest_of

words = st.one_of(
    st.none(), st.booleans(), st.integers(1 - 2**53, 2**53 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(), st.text(st.characters(max_codepoint=127)),
)  # fmt: skip
keys = st.one_of(st.text(), st.text(st.characters(max_codepoint=127)))
values = st.recursive(words, lambda part: st.one_of(st.lists(part), st.dictionaries(keys, part)))


@given(values)
def test_every_value_is_written_as_the_library_of_rfc_8785_writes_it(value):
    try:
        wanted = rfc8785.dumps(value)
    except ValueError:  # lone surrogates
        with pytest.raises(ValueError):
            canonical_bytes(value)
    else:
        assert canonical_bytes(value) == wanted


@pytest.mark.parametrize("code", range(128))
def test_every_ascii_character_is_escaped_as_the_library_does_it(code):
    assert canonical_bytes({chr(code): chr(code)}) == rfc8785.dumps({chr(code): chr(code)})


def test_the_example_of_rfc_8785():
    # RFC 8785, Section 3.2.2 and 3.2.4.
    text = r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    wanted = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_bytes(json.loads(text)) == wanted.encode()


NO_FORM = [math.nan, math.inf, -math.inf, 2**53, -(2**53), {"a": 2**64}, {1: 2}, b"x", {1}, "\ud800", [object]]


@pytest.mark.parametrize("value", NO_FORM, ids=repr)
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(ValueError):
        canonical_bytes(value)


def test_a_digest_is_bound_to_what_it_is_of():
    # Worked out with `printf '\x00\x11fedhealth/1/studyx' | sha256sum`: length of the label, label, data.
    assert digest_of("study", b"x") == "1e21d988f148ceda4f276522876ac2df3140f6a1cf981a8ee448842d29765464"
    assert digest_of("release", b"x") != digest_of("study", b"x")
