"""A convolutional network of MONAI's blocks for images and volumes, whose every record is computed by itself.

Norms are over groups of one record's channels; `privacy_check.py` walks the modules that are really there.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from monai.networks.blocks.convolutions import Convolution

from fedhealth.study.augmentation import Transform


class ImageNetwork(torch.nn.Module):
    """Convolutions in steps of 2, the mean over the image, and a linear layer that takes the other inputs too.

    Its numbers are of 32 bits, because a convolution in 64 takes several times as long; what is summed of patients is
    exact whatever they are. A convolution rounds a record differently when there are more records.

    Args:
        shape: of the image, without channels.
        first: place of its first pixel among the inputs.
        inputs: how many there are, pixels and others.
        channels: of each level.
        groups: of each level's norm.
        outputs: number of outputs.
        compares_sides: the last layer is also given the mean of how far each channel differs from its mirror image
            along the last axis. Left and right of a healthy head are alike; no filter, however deep, and no mean over
            the image sees that they are not.
    """

    one_at_a_time = True

    def __init__(
        self,
        shape: Sequence[int],
        first: int,
        inputs: int,
        channels: Sequence[int],
        groups: Sequence[int],
        outputs: int,
        *,
        compares_sides: bool,
    ) -> None:
        super().__init__()
        self._shape, self._pixels = tuple(shape), slice(first, first + math.prod(shape))
        self._compares_sides = compares_sides
        levels = [
            Convolution(
                len(shape),
                before,
                after,
                strides=2,
                kernel_size=3,
                act=("RELU", {"inplace": False}),
                norm=("GROUP", {"num_groups": each, "eps": 1e-5}),
            )
            for (before, after), each in zip(itertools.pairwise((1, *channels)), groups, strict=True)
        ]
        self.levels = torch.nn.Sequential(*levels)
        seen = channels[-1] * (2 if compares_sides else 1)
        self.head = torch.nn.Linear(seen + inputs - math.prod(shape), outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape (records, outputs) for inputs of shape (records, inputs)."""
        last = self.levels(self._image(x))
        if self._compares_sides:
            last = torch.cat([last, (last - last.flip(-1)).abs()], dim=1)
        seen = last.flatten(2).mean(2)
        others = (x[:, : self._pixels.start], x[:, self._pixels.stop :])
        outputs: torch.Tensor = self.head(torch.cat([seen, *others], dim=1))
        return outputs

    def images_of(self, x: torch.Tensor, transforms: Sequence[Transform]) -> torch.Tensor:
        """Return shape (records * images, inputs): of each record the image itself, and one for each transform."""
        if not transforms:
            return x
        image = self._image(x)[:, 0]
        axes = tuple(range(1, image.dim()))
        made = [x]
        for each in transforms:
            other = image.flip(-1) if each.mirror else image
            other = other.roll(each.shift, axes) if each.shift else other
            before, after = x[:, : self._pixels.start], x[:, self._pixels.stop :]
            made.append(torch.cat([before, other.flatten(1), after], dim=1))
        return torch.stack(made, dim=1).flatten(0, 1)

    def _image(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self._pixels].reshape(len(x), 1, *self._shape)
