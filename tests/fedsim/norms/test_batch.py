"""``norm=bn`` keeps the author's model."""

import torch
from torch import nn

from fedsim.norms.batch import keep_batch_norm


def test_the_model_stays_what_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = keep_batch_norm(model)
    assert kept is model
    assert isinstance(kept[1], nn.BatchNorm2d)
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.state_dict().items())
