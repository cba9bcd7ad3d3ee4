"""The direction on which many updates agree most: the shortest vector in the convex hull of their directions."""

from collections.abc import Sequence

import numpy as np
import torch

SMALLEST = 1e-8
"""Added to the length of an update before it is divided by that."""


def least_norm_weights(gram: np.ndarray) -> np.ndarray:
    r"""Return the weights :math:`\lambda \geq 0`, with the sum 1, that minimize :math:`\lambda^T G \lambda`.

    Args:
        gram: G (n, n), the scalar products of n vectors.

    With :math:`G = R^T R` they are proportional to the solution of the non-negative least squares problem
    :math:`\min_{u \geq 0} \lVert R u \rVert^2 + (\mathbf 1^T u - 1)^2`: in a direction of length 1 its optimum is
    :math:`a / (1 + a)` with :math:`a = \lambda^T G \lambda`, which grows with a.
    """
    from scipy.optimize import nnls  # which takes a third of a second to import, for all methods

    values, vectors = np.linalg.eigh(gram)
    root = np.sqrt(values.clip(min=0))[:, None] * vectors.T
    solution, _ = nnls(np.vstack([root, np.ones(len(gram))]), np.array([*np.zeros(len(gram)), 1.0]))
    weights: np.ndarray = solution / solution.sum()
    return weights


def consensus(updates: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""Return the common update of several, in float64 and their shape.

    .. math:: \Big( \frac{1}{n} \sum_k \lVert u_k \rVert \Big) \sum_k \lambda_k \frac{u_k}{\lVert u_k \rVert}

    with ``least_norm_weights`` of the directions, which make the update go along with all of them alike (as MGDA does;
    Eq. and code of FDSE, arXiv 2503.13063).
    """
    rows = torch.stack([update.double().flatten() for update in updates])
    lengths = rows.norm(dim=1)
    directions = rows / (lengths + SMALLEST)[:, None]
    weights = torch.from_numpy(least_norm_weights((directions @ directions.T).cpu().numpy())).to(rows)
    step: torch.Tensor = lengths.mean() * (weights @ directions)
    return step.view(updates[0].shape)
