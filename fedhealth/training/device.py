"""What this process computes networks of images on: the processor, or a GPU where an administrator lets it.

A process has one device for its life. Sums of patients are exact and independent of company on either; the same sum is
rounded differently on another, so whoever derives noise from what is computed has the device's name in its key.
Models of rows (`per_patient.py`) are always computed on the processor.
"""

import os

import torch

from fedhealth.errors import ConfigInvalid

_CPU = torch.device("cpu")
_chosen = [_CPU]


def choose_device(choice: str) -> str:
    """Compute on this device from now on, by kernels that give the same bits each time; return its name.

    Args:
        choice: "cpu"; "cuda"; or "auto", a GPU where there is one that CUDA can use, else the processor.

    Raises:
        ConfigInvalid: "cuda", and there is none.
    """
    there = choice != "cpu" and torch.cuda.is_available()
    if choice == "cuda" and not there:
        raise ConfigInvalid(
            "this machine has no GPU that can be used",
            got='device = "cuda", and CUDA finds none',
            wanted='a GPU with its driver, or device = "auto" or "cpu"',
            next_step="Correct device in site.toml, or look after the driver: nvidia-smi",
        )
    if there:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS may add up in another order each time
        torch.backends.cudnn.benchmark = False  # or the fastest kernel of the moment is taken
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    _chosen[0] = torch.device("cuda") if there else _CPU
    return device_name()


def computing_device() -> torch.device:
    """Return the device; the processor where nobody chose."""
    return _chosen[0]


def device_name() -> str:
    """Return its name, for people and for keys of noise: "cpu", or "cuda" with the GPU's model."""
    return "cpu" if _chosen[0] == _CPU else f"cuda {torch.cuda.get_device_name()}"
