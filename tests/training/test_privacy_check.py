import pytest
import torch
from torch import nn

from fedhealth.training.privacy_check import fallback_layers, refuse_if_records_mix, refuse_what_mixes_patients


class Within(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(1)), layer


REFUSED = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), "GroupNorm"),
    "BatchNorm2d without statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), "GroupNorm"),
    "BatchNorm3d, frozen": (lambda: nn.BatchNorm3d(4).requires_grad_(False).eval(), "GroupNorm"),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(4), "GroupNorm"),
    "InstanceNorm that learns": (lambda: nn.InstanceNorm2d(4, track_running_stats=True), "running statistics"),
    "LSTM with time first": (lambda: nn.LSTM(3, 4), "batch_first"),
    "attention with time first": (lambda: nn.MultiheadAttention(4, 2), "batch_first"),
    "transformer with time first": (lambda: nn.TransformerEncoderLayer(4, 2, 8), "batch_first"),
    "Embedding that edits its weights": (lambda: nn.Embedding(5, 4, max_norm=1.0), "depend on the batch"),
    "Embedding scaled by counts": (lambda: nn.Embedding(5, 4, scale_grad_by_freq=True), "depend on the batch"),
    "sparse Embedding": (lambda: nn.Embedding(5, 4, sparse=True), "depend on the batch"),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 4), "bags"),
    "softmax over records": (lambda: nn.Softmax(dim=0), "first dimension"),
    "log-softmax over an unnamed dimension": (lambda: nn.LogSoftmax(dim=None), "first dimension"),
    "softmin over records": (lambda: nn.Softmin(dim=0), "first dimension"),
    "flatten with records": (lambda: nn.Flatten(0), "first dimension"),
    "unflatten records": (lambda: nn.Unflatten(0, (2, 2)), "first dimension"),
    "lazy layer": (lambda: nn.LazyLinear(3), "weights"),
    "LSTM with dropout": (lambda: nn.LSTM(3, 4, batch_first=True, num_layers=2, dropout=0.5), "dropout"),
    "attention with dropout": (lambda: nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.1), "dropout"),
    "dropout in a layer of the fallback": (lambda: Within(nn.Dropout(0.5)), "dropout"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_names_the_layer(name):
    build, message = REFUSED[name]
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(build()))
    with pytest.raises(ValueError, match=message) as refusal:
        refuse_what_mixes_patients(model)
    assert "layer '1.0" in str(refusal.value)


ACCEPTED = {
    "dropout between layers": nn.Dropout(0.5),
    "LSTM": nn.LSTM(3, 4, batch_first=True),
    "InstanceNorm": nn.InstanceNorm2d(4, affine=True),
    "GroupNorm": nn.GroupNorm(2, 4),
    "softmax over outputs": nn.Softmax(dim=-1),
    "flatten": nn.Flatten(),
    "transformer": nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name):
    refuse_what_mixes_patients(nn.Sequential(nn.Linear(4, 4), ACCEPTED[name]))


class Subclass(nn.Linear):
    pass


def test_subclasses_and_reparametrised_layers_are_left_to_the_fallback():
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(3, 3),
            "subclass": Subclass(3, 3),
            "normed": nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
            "frozen": Subclass(3, 3).requires_grad_(False),
        }
    )
    assert set(fallback_layers(model)) == {"subclass", "normed"}


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def squares(model, batch):
    return model(*batch).square().flatten(1).mean(1)


def test_the_probe_finds_a_layer_or_a_loss_that_mixes_and_passes_one_that_does_not():
    records = (torch.randn(5, 4),)
    refuse_if_records_mix(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), squares, records)
    with pytest.raises(ValueError, match="other records"):
        refuse_if_records_mix(nn.Sequential(nn.Linear(4, 3), Centred()), squares, records)
    for shared in (lambda found: found / found.sum(), lambda found: found.mean(), lambda found: found.sort().values):
        with pytest.raises(ValueError, match="other records"):
            refuse_if_records_mix(nn.Linear(4, 3), lambda model, batch, f=shared: f(squares(model, batch)), records)
