"""Pictures of a federation: the labels of each client, the long tail of the classes, and samples of the images."""

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from datasets.federation import Federation
from datasets.shots import SHOT_RULES, SHOTS, long_tailed
from datasets.source import Indices, Part
from fedsim.core.names import left_out
from fedsim.report.plots import label, legend_below, picture, plain_logarithm
from fedsim.report.style import colour

NAMED_CLIENTS = 40
"""With more clients than these, they are drawn without names and numbers."""
NAMED_CLASSES = 20
GREYS = ("0.62", "0.76", "0.88")
"""The greys of the bars of many, medium and few, so that all colours are left for domains."""


def plot_federation(federation: Federation, folder: Path, shots: str = "share") -> list[str]:
    """Draw the pictures that are informative, and return the names of the files.

    These are ``labels.png`` where clients hold different labels, ``longtail.png`` where there is a long tail, and
    ``images.png``.
    """
    counts = federation.label_counts()
    drawn = []
    if long_tailed(counts.ravel()):  # a client with half as many images of a class as another
        drawn.append("labels.png")
        plot_labels(federation, folder / drawn[-1])
    if long_tailed(counts.sum(axis=0)):
        drawn.append("longtail.png")
        plot_longtail(federation, folder / drawn[-1], shots)
    drawn.append("images.png")
    plot_images(federation, folder / drawn[-1])
    return drawn


def plot_labels(federation: Federation, path: Path) -> None:
    """Plot how many training images of each class a client holds; none is white, and one is visibly not white.

    The colour scale is a square root, so that a long tail is visible.
    """
    counts = federation.label_counts()
    clients, classes = counts.shape
    domains = list(map(federation.domain_of, federation.clients))
    named, few_classes = clients <= NAMED_CLIENTS, classes <= NAMED_CLASSES
    width = 2.2 + (0.48 * classes if few_classes else min(10, 0.1 * classes))
    with picture(path, max(4.5, width), max(2.4, min(12, 1.3 + 0.25 * clients) if named else 6)) as (axes,):
        axes.grid(False)
        norm = PowerNorm(0.5, 1, max(2, counts.max()))
        drawn = axes.imshow(
            np.ma.masked_equal(counts, 0),
            aspect="auto",
            cmap=_blues(),
            norm=norm,
            interpolation="nearest",
        )
        axes.set_title(f"training images per client and class ({counts.sum()} images)", fontsize=9)
        axes.set_xlabel("class")
        if few_classes:
            _name_classes(axes, federation.source.class_names)
        if named:
            axes.set_yticks(range(clients), [f"{client} {label(domain)}" for client, domain in enumerate(domains)])
        else:
            axes.set_ylabel("client")
            _name_domains(axes, domains)
        if named and few_classes:
            for row, column in np.argwhere(counts):
                count = counts[row, column]
                ink = "white" if norm(count) > 0.55 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=6.5, color=ink)
        figure = axes.figure
        assert isinstance(figure, Figure)
        figure.colorbar(drawn, ax=axes, shrink=0.8)


def plot_longtail(federation: Federation, path: Path, shots: str) -> None:
    """Plot training images per class, the largest first, with the borders of many, medium and few, and each domain."""
    counts = federation.label_counts().sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    groups = np.array(SHOT_RULES[shots](counts), object)[order]
    present = counts[counts > 0]
    with picture(path, 6.5, 3.4) as (axes,):
        places = np.arange(len(counts))
        greys = dict(zip(SHOTS, GREYS, strict=True))
        for shot in (shot for shot in SHOTS if shot in groups):
            mine = groups == shot
            axes.bar(places[mine], counts[order][mine], width=0.9, color=greys[shot], label=shot)
        for left in range(len(groups) - 1):
            if groups[left] != groups[left + 1]:
                axes.axvline(left + 0.5, color="black", linewidth=0.8, linestyle=":")
        by_domain = _counts_by_domain(federation)
        if len(by_domain) > 1:
            line = ".-" if len(counts) <= NAMED_CLASSES else "."  # of many classes, lines would only cross
            for number, (domain, mine) in enumerate(by_domain.items()):
                axes.plot(
                    places, np.where(mine > 0, mine, np.nan)[order], line, color=colour(number), label=label(domain)
                )
        if present.min() < 0.2 * present.max():
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.7)
            axes.yaxis.set_major_formatter(plain_logarithm())
            axes.yaxis.set_minor_formatter(plain_logarithm())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("training images")
        axes.set_xlabel("class, the largest first")
        if len(counts) <= NAMED_CLASSES:
            _name_classes(axes, [federation.source.class_names[label] for label in order])
        missing = len(counts) - len(present)
        axes.set_title(
            f"{counts.sum()} images, imbalance factor {present.min() / present.max():.3g}"
            + (f", {missing} classes without images" if missing else ""),
            fontsize=9,
        )
        legend_below(axes)


def plot_images(federation: Federation, path: Path, columns: int = 16) -> None:
    """Plot a row of images of each domain, class after class; with noisy clients also a row of the noisiest."""
    source = federation.source
    train = federation.partitions.train.joined()
    rows: list[tuple[str, npt.NDArray[np.uint8]]] = []
    for domain in federation.domain_tests:
        mine = train[source.domains[train] == source.domain_names.index(domain)]
        if len(mine):
            rows.append((label(domain), source.images[_one_of_each_class(mine, source.labels[mine], columns)]))
    for domain, test in federation.unseen_tests.items():
        rows.append((left_out(label(domain)), source.images[_one_of_each_class(test, source.labels[test], columns)]))
    noisiest = max(federation.partitions, key=lambda each: each.noise.deviation if each.noise else 0.0)
    if noisiest.noise is not None:
        examples = federation.examples_of(noisiest.client, Part.TRAIN)
        chosen = _one_of_each_class(np.arange(len(examples)), examples.labels.numpy(), columns)
        name = f"client {noisiest.client}, noise {noisiest.noise.deviation:g}"
        rows.append((name, examples.images.numpy()[chosen]))
    gap = max(1, source.image_shape[1] // 24)
    framed = [np.pad(images, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=255) for _, images in rows]
    strips = [np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1) for images in framed]
    height = len(strips[0])
    with picture(path, 8.5, 0.4 + 7.5 / columns * len(rows)) as (axes,):
        axes.grid(False)
        smooth = "nearest" if height <= 64 else "auto"
        axes.imshow(np.concatenate(strips), cmap="gray", interpolation=smooth)  # the colour map is for one channel only
        axes.set_yticks([height * (row + 0.5) for row in range(len(rows))], [name for name, _ in rows])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)


def _blues() -> Colormap:
    """Return a colour map of blues whose lowest colour differs from white."""
    return ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.12, 1, 256)))


def _one_of_each_class(images: Indices, labels: Indices, count: int) -> Indices:
    """Return ``count`` images: the first of each class, then the second of each and so on; repeated if too few."""
    by_class = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return images[by_class[np.resize(np.argsort(rank, kind="stable"), count)]]


def _counts_by_domain(federation: Federation) -> dict[str, Indices]:
    counts = federation.label_counts()
    held = federation.partitions.domains
    return {
        domain: counts[[each == domain for each in held]].sum(axis=0)
        for domain in dict.fromkeys(held)
        if domain is not None
    }


def _name_classes(axes: Axes, names: "tuple[str, ...] | list[str]") -> None:
    long = max(map(len, names)) > 3
    axes.set_xticks(range(len(names)), map(label, names), rotation=40 if long else 0, ha="right" if long else "center")


def _name_domains(axes: Axes, domains: list[str]) -> None:
    """Put a tick in the middle of each sequence of clients of one domain, and lines between the sequences."""
    starts = [0, *(at for at in range(1, len(domains)) if domains[at] != domains[at - 1]), len(domains)]
    if 2 < len(starts) <= NAMED_CLIENTS:
        middles = [(first + last - 1) / 2 for first, last in pairwise(starts)]
        spans = [
            f"{first}\N{EN DASH}{last - 1}" if last - first > 1 else f"{first}" for first, last in pairwise(starts)
        ]
        axes.set_yticks(middles, [f"{label(domains[at])} {span}" for at, span in zip(starts, spans, strict=False)])
        for at in starts[1:-1]:
            axes.axhline(at - 0.5, color="black", linewidth=0.6)
