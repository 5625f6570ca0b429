"""Where two JSON values differ; numbers agree within what two machines' mathematics may differ by."""

import math
from collections.abc import Iterator
from typing import Any

_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
"""Logarithms and Fourier transforms differ in their last bits; a change that anybody could care for is far larger."""


def differences(one: Any, other: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:  # noqa: ANN401 - JSON
    """Yield the path, from the outermost key, of each place where two JSON values do not agree.

    Example:
        >>> list(differences({"a": [1, 2.0]}, {"a": [1, 2.1]}))
        [('a', '1')]
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if key in one and key in other:
                yield from differences(one[key], other[key], (*path, str(key)))
            else:
                yield (*path, str(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, (*path, str(number)))
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE):
            yield path
    elif one != other or type(one) is not type(other):
        yield path
