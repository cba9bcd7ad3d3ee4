"""The first comparison: SSE-C, the frame of the fixed classifier."""

import sys
import types
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from fedsim.heads.etf import simplex_frame
from fedsim.heads.sparse_frame import sparse_frame
from results.fedloge_official.official import quietly
from results.fedloge_official.rows import largest, row

SPARSITY, NORM, FULL = 0.6, 0.1, 10_000


def frames(theirs: types.SimpleNamespace, full: bool) -> None:
    for classes, features in ((10, 64), (10, 512), (100, 512)):
        ours, official = from_our_start(theirs, classes, features, 500)
        row(f"SSE-C {classes} x {features}, 500 steps", largest(ours, official))
    ours, official = from_our_start(theirs, 10, 512, 500, sparsity=0.0)
    row("SSE-C 10 x 512, nothing zeroed, 500 steps", largest(ours, official))
    row("  here", *shape_of(ours))
    row("  official", *shape_of(official))
    start, frame = theirs.etf.ETF_Classifier(512, 10).ori_M.T.double(), simplex_frame(10, 512)
    row("products of the rows before zeros, theirs in float32", largest(start @ start.T, frame @ frame.T))
    if full:
        ours, official = from_our_start(theirs, 10, 512, FULL)
        row(f"SSE-C 10 x 512, {FULL} steps", largest(ours, official))
        row("  zeros", int((ours == 0).sum()), "at the same places", zeros_agree(ours, official))
        row("  here", *shape_of(ours))
        row("  official", *shape_of(official))
        ours, official, start = from_their_start(theirs, 10, 512, FULL)
        row(f"SSE-C 10 x 512, {FULL} steps, their start, theirs in float32", largest(ours, official.double()))
        row("  here", *shape_of(ours))
        row("  official", *shape_of(official))
        row("  cosine of each class with (1, ..., 1), at the start", against_ones(start))
        row("  the same at the end", against_ones(official))


def from_our_start(
    theirs: types.SimpleNamespace, classes: int, features: int, steps: int, sparsity: float = SPARSITY
) -> tuple[torch.Tensor, torch.Tensor]:
    frame, start, ours = (
        seeded(lambda: simplex_frame(classes, features)),
        seeded(lambda: sparse_frame(classes, features, sparsity, NORM, 0)),
        seeded(lambda: sparse_frame(classes, features, sparsity, NORM, steps)),
    )
    etf = theirs.etf.ETF_Classifier(features, classes)
    etf.ori_M = frame.T.contiguous()
    zeros = np.flatnonzero(start.T.numpy() == 0)
    with (
        mock.patch("numpy.random.choice", return_value=zeros),
        mock.patch.object(theirs.etf, "range", return_value=range(steps), create=True),
        quietly(),
    ):
        official = etf.gen_sparse_ETF(features, classes, sparsity)
    return ours, official.detach().T


def from_their_start(
    theirs: types.SimpleNamespace, classes: int, features: int, steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    np.random.seed(0)
    etf = theirs.etf.ETF_Classifier(features, classes)
    drawn = np.random.choice(classes * features, int(SPARSITY * classes * features), replace=False)
    zeros = torch.from_numpy(drawn % classes * features + drawn // classes)
    start: torch.Tensor = etf.ori_M.T
    with mock.patch("numpy.random.choice", return_value=drawn), quietly():
        official = etf.gen_sparse_ETF(features, classes, SPARSITY)
    with (
        mock.patch.object(sys.modules[sparse_frame.__module__], "simplex_frame", return_value=start.double()),
        mock.patch("torch.randperm", return_value=zeros),
    ):
        ours = sparse_frame(classes, features, SPARSITY, NORM, steps)
    return ours, official.detach().T, start


def seeded(make: Any) -> torch.Tensor:
    torch.manual_seed(0)
    tensor: torch.Tensor = make()
    return tensor


def zeros_agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one == 0) == (other == 0)).all())


def shape_of(frame: torch.Tensor) -> tuple[str, str]:
    lengths, unit = frame.norm(dim=1), nn.functional.normalize(frame, dim=1)
    angles = (unit @ unit.T).clamp(-1, 1).acos().rad2deg()[~torch.eye(len(frame), dtype=torch.bool)]
    return (
        f"lengths {lengths.min().item():.5f} to {lengths.max().item():.5f}",
        f"angles {angles.min().item():.3f} to {angles.max().item():.3f}",
    )


def against_ones(frame: torch.Tensor) -> list[float]:
    cosines = nn.functional.normalize(frame, dim=1).sum(1) / frame.shape[1] ** 0.5
    return [round(cosine, 2) for cosine in cosines.tolist()]
