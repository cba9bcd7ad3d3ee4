"""FedLoGe's SSE-C, the static sparse equiangular tight frame classifier (Xiao et al., ICLR 2024, arXiv 2401.08977)."""

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.heads.etf import simplex_frame

LR = 1e-4
NEAREST = 0.99999
"""Cosines are kept below this, where the slope of the angle would become infinite."""


def sparse_frame(
    classes: int, features: int, sparsity: float, norm: float, steps: int, orientation: str = "uniform"
) -> torch.Tensor:
    r"""Rows of about one length whose angles are nearly equal although most of their entries are zero.

    A simplex frame loses ``floor(sparsity * classes * features)`` of its entries, drawn without replacement; Adam (lr
    1e-4) then moves the others for ``steps`` steps to lower

    .. math:: \sum_c (\lVert w_c \rVert - \text{norm})^2
              - \frac{1}{C} \sum_c \arccos \max_{j \neq c} \cos(w_c, w_j)

    Returns (classes, features), float64. Torch's global generator draws. With ``orientation="uniform"`` every
    orientation of the simplex frame is as likely. ``"code"`` is the authors': a QR of positive numbers, whose first
    column is nearly -(1, ..., 1), so that class 0 is at a disadvantage behind a ReLU.

    Errors: ``UserError`` if so many classes do not fit into the features, or a row would have nothing but zeros.
    """
    frame = simplex_frame(classes, features)
    if orientation == "code":
        frame = _centred(torch.linalg.qr(torch.rand(features, classes, dtype=frame.dtype))[0].T)
    zeros = torch.randperm(frame.numel())[: int(sparsity * frame.numel())]
    mask = torch.ones(frame.numel(), dtype=frame.dtype).index_fill_(0, zeros, 0).view_as(frame)
    if not mask.any(dim=1).all():
        raise UserError(
            f"head.sparsity={sparsity} leaves a class nothing but zeros with {features} features: "
            "choose a smaller number, or another model."
        )
    weight = (frame * mask).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=LR)
    with torch.enable_grad():
        for _ in range(steps):
            lengths = weight.norm(dim=1)
            unit = weight / lengths[:, None]
            cosines = (unit @ unit.T).fill_diagonal_(-1)
            nearest = cosines.amax(1).clamp(-NEAREST, NEAREST).acos()
            loss = (lengths - norm).square().sum() - nearest.mean()
            (gradient,) = torch.autograd.grad(loss, weight)
            weight.grad = gradient * mask
            optimizer.step()
    return weight.detach()


def _centred(orthonormal: torch.Tensor) -> torch.Tensor:
    """The simplex frame of orthonormal rows (classes, features), at least as many features as classes."""
    classes = len(orthonormal)
    frame: torch.Tensor = (classes / (classes - 1)) ** 0.5 * (orthonormal - orthonormal.mean(0))
    return frame


class SparseFrame(nn.Linear):
    """A classifier that is never trained: (N, features) to (N, classes), its weight a ``sparse_frame``.

    The server alone makes the frame, with ``make``, and gives it to every client: ten thousand steps need not be done
    by each device, and would not end in the same bits on all. Until then the weight is not a number.

    The bias is zero, or with ``bias="random"`` what ``nn.Linear`` starts with, as in the authors' code; it is then as
    large as the weights.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        sparsity: float = 0.6,
        norm: float = 0.1,
        steps: int = 10_000,
        bias: str = "zero",
        orientation: str = "uniform",
    ) -> None:
        super().__init__(features, classes)
        if not 0 <= sparsity < 1:
            raise UserError(f"head.sparsity={sparsity} is not possible: choose a number from 0 to below 1.")
        if not 0 < norm < float("inf"):
            raise UserError(f"head.norm={norm} is not possible: choose a number above 0.")
        if steps < 0:
            raise UserError(f"head.steps={steps} is not possible: choose a whole number of at least 0.")
        if bias not in ("zero", "random"):
            raise UserError(f"head.bias={bias} is not known: choose zero or random.")
        if orientation not in ("uniform", "code"):
            raise UserError(f"head.orientation={orientation} is not known: choose uniform or code.")
        self.sparsity, self.norm, self.steps, self.orientation = sparsity, norm, steps, orientation
        self.requires_grad_(False)
        self.weight.fill_(torch.nan)
        if bias == "zero":
            self.bias.zero_()

    def make(self) -> None:
        """Errors: those of ``sparse_frame``."""
        frame = sparse_frame(
            *(self.out_features, self.in_features, self.sparsity, self.norm, self.steps, self.orientation)
        )
        self.weight.copy_(frame)

    @property
    def made(self) -> bool:
        return not bool(self.weight.isnan().any())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sparsity={self.sparsity:g}, norm={self.norm:g}"


def refuse_unmade(model: nn.Module, head: str, strategy: str) -> None:
    """Refuse a network whose fixed classifier nobody has made.

    Raises:
        UserError: Naming the head and the strategy.
    """
    if any(isinstance(layer, SparseFrame) and not layer.made for layer in model.modules()):
        raise UserError(
            f"head={head} has a fixed classifier, which strategy={strategy} does not make: choose the strategy that "
            "brings this head with it, or another head."
        )
