"""A convolutional network over the pixels of one image or volume; other features join before its last layer.

`model.hidden` has the channels of its levels. Each level halves the image: a convolution of 3 pixels along each axis in
steps of 2, GroupNorm, and max(x, 0). Each channel's mean over what is left of the image goes into a linear layer; with
`model.compare_sides`, so does the mean of how far the channel differs from itself with left and right exchanged.
No layer looks at more than one record. Torch-free until a module is asked for, which takes the extra `imaging`.

Start: each convolution's weight is uniform within +-sqrt(6 / inputs of one output) (He et al., ICCV 2015), drawn from
the study's digest as in `dense_layers`; norms start from weight 1 and bias 0, the linear layer from zeros.
"""

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.dense_layers import draws_of, widths_of
from fedhealth.study.images import ImageFeature, Pixels
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    from fedhealth.training.image_network import ImageNetwork
    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"binary", "category", "classes", "number"})
HAS_HIDDEN_LAYERS = True
_KERNEL = 3

MAX_NUMBERS = 2**28
"""Of one record, forward and backward: 1 GiB. Whatever the patients, a gate holds no more at once, or one record."""


def size(study: Study) -> int:
    """Return the number of weights of all layers.

    Raises:
        ConfigInvalid: no image or several, transforms that are none of it, or one record takes more than a gate has.
    """
    _check(study)
    return sum(math.prod(shape) for shape in tensors(study).values())


def start(study: Study) -> NDArray[np.float64]:
    """Return small weights that follow from the study's digest; every output starts from zero."""
    found, at = list[NDArray[np.float64]](), 0
    shapes = tensors(study)
    draws = draws_of(study.digest, sum(math.prod(each) for name, each in shapes.items() if name.endswith("filters")))
    for name, shape in shapes.items():
        count = math.prod(shape)
        if name.endswith("filters"):
            found.append(math.sqrt(6 / math.prod(shape[1:])) * draws[at : at + count])
            at += count
        else:
            found.append(np.full(count, float(name.endswith("scales"))))
    return np.concatenate(found)


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return four tensors for each level, and those of the linear layer, in the order of the module's parameters."""
    image, _ = image_of(study)
    kernel, found = (_KERNEL,) * len(image.shape), dict[str, tuple[int, ...]]()
    for number, (inputs, channels) in enumerate(itertools.pairwise((1, *study.model.hidden)), 1):
        found |= {
            f"level {number} filters": (channels, inputs, *kernel),
            f"level {number} biases": (channels,),
            f"level {number} scales": (channels,),
            f"level {number} shifts": (channels,),
        }
    outputs = widths_of(study)[-1]
    others, means = study.dimension - math.prod(image.shape), study.model.hidden[-1] * _parts(study)
    return found | {"weights": (outputs, means + others), "biases": (outputs,)}


def reading(study: Study) -> str:
    """Return how to compute it."""
    (image, first), last = image_of(study), len(study.model.hidden)
    pixels = math.prod(image.shape)
    compared = ""
    if study.model.compare_sides:
        compared = (
            "followed by the mean of the absolute difference between each channel and the same channel with its last "
            "axis turned around, "
        )
    shape, groups = " x ".join(map(str, image.shape)), ", ".join(str(groups_of(each)) for each in study.model.hidden)
    return (
        f"Inputs {first + 1} to {first + pixels} are an image of {shape} and one channel. For each level n from 1 to "
        f"{last}, correlate it with `level n filters` in steps of 2, with one pixel of zeros around it, and add `level "
        "n biases` (in torch: conv2d or conv3d with stride 2 and padding 1); over each of as many groups of "
        f"neighbouring channels as this list says, a number for each level ({groups}), subtract the mean and divide by "
        "sqrt(variance + 0.00001); multiply each channel with its entry of `level n scales`, add that of `level n "
        "shifts`, and put 0 in the place of what is below 0. The mean of each channel after the last level, "
        f"{compared}followed by all other inputs in their order, is multiplied with `weights` (a row for each output), "
        "and `biases` are added: these are the outputs. Numbers are of 32 bits."
    )


def module(study: Study) -> "ImageNetwork":
    """Return the network.

    Raises:
        ConfigInvalid: MONAI is not installed.
    """
    try:
        from fedhealth.training.image_network import ImageNetwork
    except ImportError as error:
        raise ConfigInvalid(
            "a study trains a convolutional network, and MONAI is not installed",
            next_step="Install it: pip install 'fedhealth[imaging]'",
        ) from error
    image, first = image_of(study)
    groups = [groups_of(each) for each in study.model.hidden]
    form = image.shape, first, study.dimension, study.model.hidden, groups, widths_of(study)[-1]
    return ImageNetwork(*form, compares_sides=study.model.compare_sides)


def loss(study: Study) -> "RecordLoss":
    """Return the loss of the endpoint's kind."""
    from fedhealth.learning.losses import LOSSES

    return LOSSES[study.endpoint.kind]


def image_of(study: Study) -> tuple[ImageFeature, int]:
    """Return the feature whose pixels a study's network sees, and the place of its first among the inputs.

    Raises:
        ConfigInvalid: there is none, or several.
    """
    found, at = list[tuple[ImageFeature, int]](), 0
    for feature in study.features:
        if isinstance(feature, ImageFeature) and isinstance(feature.inputs, Pixels):
            found.append((feature, at))
        at += feature.width
    if len(found) != 1:
        raise ConfigInvalid(
            f"study '{study.name}' has a model that sees one image, and does not give it one",
            got=", ".join(f"'{feature.column}'" for feature, _ in found) or "no image with inputs of kind 'pixels'",
            wanted="one feature of kind 'image' with inputs of kind 'pixels'",
            next_step="Correct the features, or [model].",
        )
    return found[0]


def _check(study: Study) -> None:
    image, _ = image_of(study)
    axes = len(image.shape)
    transforms = () if study.training is None else study.training.augment
    for shift in (each.shift for each in transforms if each.shift):
        if len(shift) != axes or not any(step % length for step, length in zip(shift, image.shape, strict=True)):
            raise ConfigInvalid(
                f"study '{study.name}' shifts its images to where they are, or along axes that they have not",
                got=f"shift = {list(shift)}, of images of {' x '.join(str(each) for each in image.shape)}",
                wanted=f"{axes} numbers, one of them not a multiple of its axis",
                next_step="Correct training.augment.",
            )
    if (numbers := numbers_of_a_record(study)) > MAX_NUMBERS:
        raise ConfigInvalid(
            f"one record of study '{study.name}' takes more memory than a gate has for it",
            got=f"{numbers:,} numbers, forward and backward",
            wanted=f"at most {MAX_NUMBERS:,}",
            next_step="Give the image a smaller shape, or model.hidden fewer channels on its first levels.",
        )


def groups_of(channels: int) -> int:
    """Return how many groups a level's norm has: of four channels each where they divide so, else one."""
    return channels // 4 if channels % 4 == 0 else 1


def numbers_of_a_record(study: Study) -> int:
    """Return how many numbers a record takes through the network, forward and backward: a public figure."""
    image, _ = image_of(study)
    shape, found = image.shape, study.dimension
    for channels in study.model.hidden:
        shape = tuple((each + 1) // 2 for each in shape)
        found += 6 * channels * math.prod(shape)  # of each level: convolution, norm and max, and their gradients
    if study.model.compare_sides:
        found += 6 * study.model.hidden[-1] * math.prod(shape)  # mirrored, less the other, absolute; and gradients
    return found


def _parts(study: Study) -> int:
    return 2 if study.model.compare_sides else 1
