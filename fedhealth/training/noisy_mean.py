"""From the clipped sum of a Poisson batch to the noisy mean gradient that a model learns from.

The sum is rounded to the mechanism's grid, integer noise is added, and the result is divided by the expected number
of patients, sampling_rate * declared_patients, which is public. Never by the number drawn, which is not.

The mechanism's sensitivity assumes an exact sum of exactly clipped vectors (`fedhealth.privacy.gaussian`). The sum of
`book_keeping` is rounded; what that adds is derived there and not yet in the mechanism, so no gate calls this.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.stream import KeyedStream


def noisy_steps(total: torch.Tensor, mechanism: GridGaussian, stream: KeyedStream) -> NDArray[np.int64]:
    """Return the sum plus noise in steps of the mechanism's grid, shape (d,).

    Args:
        total: sum of vectors clipped to `mechanism.l2_clip_norm`, shape (mechanism.dimension,), finite.
        mechanism: grid and noise.
        stream: where the noise comes from.

    Raises:
        ValueError: another shape.
    """
    if total.shape != (mechanism.dimension,):
        raise ValueError(f"the sum has shape {tuple(total.shape)}, wanted ({mechanism.dimension},)")
    values = total.detach().to("cpu", torch.float64).numpy()
    return mechanism.add_noise(np.rint(values / mechanism.grid).astype(np.int64), stream)


def mean_of_steps(
    steps: NDArray[np.int64], mechanism: GridGaussian, sampling_rate: float, declared_patients: int
) -> NDArray[np.float64]:
    """Return the mean gradient in its own unit, from public figures only.

    Args:
        steps: what `noisy_steps` returned.
        mechanism: the same.
        sampling_rate: of the sampler, in (0, 1].
        declared_patients: the site's public round figure, above 0; never a count.
    """
    return np.asarray(steps * (mechanism.grid / (sampling_rate * declared_patients)), dtype=np.float64)
