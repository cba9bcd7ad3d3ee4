"""FedLoGe's SSE-C, the static sparse equiangular tight frame classifier (Xiao et al., ICLR 2024, arXiv 2401.08977)."""

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.heads.etf import simplex_frame

LR = 1e-4
NEAREST = 0.99999
"""The bound to which cosines are clamped, since the slope of the arccosine is infinite at 1."""


def sparse_frame(
    classes: int, features: int, sparsity: float, norm: float, steps: int, orientation: str = "uniform"
) -> torch.Tensor:
    r"""Return a sparse frame: rows of similar norm and nearly equal angles, although most of their entries are zero.

    In a simplex frame ``floor(sparsity * classes * features)`` entries, drawn without replacement, are set to zero;
    Adam (lr 1e-4) then changes the others for ``steps`` steps to minimize

    .. math:: \sum_c (\lVert w_c \rVert - \text{norm})^2
              - \frac{1}{C} \sum_c \arccos \max_{j \neq c} \cos(w_c, w_j)

    The result is (classes, features), float64. Random numbers are drawn from torch's global generator. With
    ``orientation="uniform"`` all orientations of the simplex frame have the same probability. ``"code"`` is as in the
    authors' code: the QR decomposition of positive numbers, whose first column is nearly proportional to
    -(1, ..., 1), which disadvantages class 0 after a ReLU.

    Raises:
        UserError: If there are too few features for the classes, or a row would have only zeros.
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
    """Return the simplex frame from orthonormal rows (classes, features), with at least as many features as classes."""
    classes = len(orthonormal)
    frame: torch.Tensor = (classes / (classes - 1)) ** 0.5 * (orthonormal - orthonormal.mean(0))
    return frame


class SparseFrame(nn.Linear):
    """A classifier that is never trained, from (N, features) to (N, classes), whose weight is a ``sparse_frame``.

    Only the server makes the frame, with ``make``, and sends it to every client: devices need not do ten thousand
    steps, and would not get bitwise equal results. Until then the weight is NaN.

    The bias is zero, or with ``bias="random"`` the initial one of ``nn.Linear``, as in the authors' code; it is then as
    large as the weights.

    Raises:
        UserError: If an option is unknown or out of its range.
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
        """Set the weight to a ``sparse_frame``.

        Raises:
            UserError: As ``sparse_frame``.
        """
        frame = sparse_frame(
            self.out_features,
            self.in_features,
            sparsity=self.sparsity,
            norm=self.norm,
            steps=self.steps,
            orientation=self.orientation,
        )
        self.weight.copy_(frame)

    @property
    def made(self) -> bool:
        if torch.compiler.is_compiling():  # a network is tried before it is traced, which cannot look at numbers
            return True
        return not bool(self.weight.isnan().any())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sparsity={self.sparsity:g}, norm={self.norm:g}"


def refuse_unmade(model: nn.Module, head: str, strategy: str) -> None:
    """Refuse a network with a fixed classifier that was not made.

    Raises:
        UserError: If there is one; the message names the head and the strategy.
    """
    if any(isinstance(layer, SparseFrame) and not layer.made for layer in model.modules()):
        raise UserError(
            f"head={head} has a fixed classifier, which strategy={strategy} does not make: choose the strategy that "
            "brings this head with it, or another head."
        )
