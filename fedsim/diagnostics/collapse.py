"""Neural collapse of the global model (Papyan, Han & Donoho, PNAS 2020, arXiv 2008.08186), over all clients' images."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ClassMeans:
    """Class means of the features h, the input of the classifier, over all clients."""

    means: torch.Tensor
    """(classes, features), rows of infinity for classes without images."""
    present: torch.Tensor
    """The classes with images, (present classes,)."""

    @classmethod
    def of(cls, sums: torch.Tensor, counts: torch.Tensor) -> "ClassMeans":
        """Compute the means from sums (classes, features) and counts (classes,) over all images."""
        means = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), torch.inf)
        return cls(means, counts.nonzero()[:, 0])

    @property
    def centred(self) -> torch.Tensor:
        r""":math:`\mu_c - \mu_G` with the mean :math:`\mu_G` of the class means, (present classes, features)."""
        present = self.means[self.present]
        return present - present.mean(0)

    def projection(self) -> torch.Tensor:
        r"""Return P (features, rank) with :math:`P P^\top = \Sigma_B^+`, the between-class pseudo-inverse.

        :math:`\Sigma_B = M M^\top / C` has a rank of at most C - 1. With P, :math:`\mathrm{Tr}(\Sigma_W \Sigma_B^+)` is
        a mean of squares over images, so that the covariance of all features need not be computed or sent.
        """
        centred = self.centred
        _, singular, basis = torch.linalg.svd(centred, full_matrices=False)
        rank = min(len(centred) - 1, int((singular > singular[0] * 1e-6).sum())) if len(centred) > 1 else 0
        projection: torch.Tensor = basis[:rank].T * (len(centred) ** 0.5 / singular[:rank])
        return projection


def collapse_metrics(classes: ClassMeans, weight: torch.Tensor, scatter: float, disagreeing: float) -> dict[str, float]:
    r"""Return NC1 to NC4 under their names in ``diagnostics.csv``; all approach zero as the classes collapse.

    * ``nc1``: :math:`\mathrm{Tr}(\Sigma_W \Sigma_B^+)`, as in the authors' notebook (their paper divides by C), which
      is ``scatter``.
    * ``nc2_norms_means`` and ``nc2_norms_weights``: the coefficient of variation of the norms of centred class means
      and of the classifier's rows, with the sample deviation (over C - 1), as in the notebook.
    * ``nc2_angles_means`` and ``nc2_angles_weights``: the mean over pairs of :math:`| \cos + 1 / (C - 1) |`.
    * ``nc3``: :math:`\| W / \| W \|_F - M^\top / \| M \|_F \|_F^2`.
    * ``nc4``: the share of images for which the network and the nearest class mean disagree, ``disagreeing``.

    Args:
        classes: The class means.
        weight: The classifier's weight, (all classes, features).
        scatter: The mean over images of ``class_scatter``'s sum of squares.
        disagreeing: The share of images counted by ``class_scatter``.

    Returns:
        The metrics; empty for fewer than two classes.
    """
    means, rows = classes.centred, weight.to(classes.means.dtype)[classes.present]
    if len(means) < 2:
        return {}
    return {
        "nc1": scatter,
        "nc2_norms_means": _variation(means),
        "nc2_norms_weights": _variation(rows),
        "nc2_angles_means": _coherence(means),
        "nc2_angles_weights": _coherence(rows),
        "nc3": (rows / rows.norm() - means / means.norm()).square().sum().item(),
        "nc4": disagreeing,
    }


def _variation(rows: torch.Tensor) -> float:
    lengths = rows.norm(dim=1)
    return float(lengths.std(correction=1) / lengths.mean())


def _coherence(rows: torch.Tensor) -> float:
    unit = torch.nn.functional.normalize(rows)
    cosines = unit @ unit.T + 1 / (len(rows) - 1)
    others = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return cosines[others].abs().mean().item()
