"""One network over several modalities: a tower for each, and the mean of those whose modality a record has.

Trained with modality dropout, so that it answers whatever is missing: a record's loss is the mean of the loss with all
modalities that it has and with each of them alone. All are computed for every record and nothing is drawn, so that
neither noise nor time tells which a record has, and the same record gives the same gradient each time.

Each row is computed alone, as in `fedhealth.training.per_patient`. In training mode the outputs are what the loss
needs; in evaluation mode they are the fused ones alone.

Sources: late fusion, Baltrusaitis, Ahuja and Morency, IEEE TPAMI 2019; dropping modalities in training, Neverova, Wolf,
Taylor and Nebout, "ModDrop", IEEE TPAMI 2016.
"""

from collections.abc import Sequence

import torch

from fedhealth.training.per_patient import RecordLoss, RowwiseNetwork


class LateFusion(torch.nn.Module):
    """Towers of dense layers, fused by the mean of those whose modality is there.

    The last inputs are the modalities' presence, 1 or 0 each, in the order of the towers.

    Args:
        places: for each tower, the inputs that it takes, as ranges (first, end) in the order in which it takes them.
        widths: for each tower, the number of inputs, of units of each hidden layer, and of outputs; the last is alike.
    """

    def __init__(self, places: Sequence[Sequence[tuple[int, int]]], widths: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.places = tuple(tuple(each) for each in places)
        self.towers = torch.nn.ModuleList(map(RowwiseNetwork, widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape (..., outputs); in training mode (..., 1 + towers, outputs + 1).

        There, the first row is the fused output, each other row one tower's; behind each stands its weight in the loss.
        """
        nothing = torch.zeros((), dtype=torch.float64)
        first = x.shape[-1] - len(self.places)
        has = [(x[..., at : at + 1] > 0).double() for at in range(first, x.shape[-1])]
        outputs = []
        for tower, places, there in zip(self.towers, self.places, has, strict=True):
            inputs = torch.cat([x[..., start:end] for start, end in places], -1)
            outputs.append(torch.where(there > 0, tower(inputs), nothing))
        # One by one: how a sum rounds must not depend on where a tensor's elements lie.
        total, count = sum(outputs[1:], outputs[0]), sum(has[1:], has[0])
        fused = total / count.clamp(min=1)
        if not self.training:
            return fused
        share = 1 / (1 + count)
        rows = [(fused, share), *((output, share * there) for output, there in zip(outputs, has, strict=True))]
        return torch.stack([torch.cat(row, -1) for row in rows], -2)


class ModalityDropoutLoss:
    """The mean of a loss over what a record is judged by: all its modalities together, and each of them alone.

    Args:
        loss: of one output.
    """

    def __init__(self, loss: RecordLoss) -> None:
        self._loss = loss

    def __call__(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return one record's loss, shape (), of what the network gives in training mode."""
        parts = [row[-1] * self._loss(row[:-1], label) for row in output.unbind()]
        return sum(parts[1:], parts[0])
