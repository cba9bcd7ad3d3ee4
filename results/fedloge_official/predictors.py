"""The fourth comparison: the predictors of the server and of a client, after realignment as well."""

import contextlib
import copy
import types
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from clients import FedLoGe
from clients.fedloge import AUXILIARY, REALIGNED
from datasets.examples import Examples
from datasets.shots import SHOTS, shots_by_share
from fedsim.methods.interfaces import PLAIN, ClientContext
from fedsim.metrics.scoring import CORRECT, MASKED, joined, named, score
from results.fedloge_official.official import CLASSES, TRAINING, arguments, images_and_labels, loaders_of, quietly
from results.fedloge_official.protocol import class_sizes
from results.fedloge_official.rows import largest, row

TESTS = 30
"""Test images of each class."""


def of_the_server(
    theirs: types.SimpleNamespace,
    model: nn.Module,
    backbone: nn.Module,
    g_head: nn.Linear,
    g_aux: nn.Linear,
    tests: Examples,
) -> None:
    """The global model's three predictors, and its accuracies on many, medium and few."""
    sizes = class_sizes(CLASSES, 0.01)
    data = types.SimpleNamespace(global_test_distribution=np.array(sizes))
    context = ClientContext(own=False)
    scores = score(FedLoGe(TRAINING), model, tests, context)
    logits = FedLoGe(TRAINING).predict(model, tests.batch(torch.arange(len(tests)))[0], context)
    shots = np.array(shots_by_share(sizes))
    for name, function, head in (
        (PLAIN, "globaltest", g_head),
        (AUXILIARY, "globaltest", g_aux),
        (REALIGNED, "globaltest_calibra", g_aux),
    ):
        head = copy.deepcopy(head)
        with recording(head) as seen, quietly():
            accuracy, by_shots = getattr(theirs.update, function)(
                copy.deepcopy(backbone), head, images_and_labels(tests), arguments(), dataset_class=data
            )
        right = np.array(scores[named(name, "correct-by-class")])
        ours = [right.sum() / len(tests), *(right[shots == shot].mean() / TESTS for shot in SHOTS)]
        official = [accuracy, *(by_shots[shot] for shot in ("head", "middle", "tail"))]
        row(f"global {name or 'SSE-C'}, logits", largest(logits[name], torch.cat(seen)))
        row("  accuracies, all, many, medium, few", f"{max(abs(np.subtract(ours, official))):.1e}", np.round(ours, 3))
        if name == REALIGNED:
            row(
                "  lengths of its rows",
                largest(head.weight.norm(dim=1), torch.full((CLASSES,), 1.7, dtype=torch.float64)),
            )


def of_a_client(
    theirs: types.SimpleNamespace,
    model: nn.Module,
    backbone: nn.Module,
    their_heads: Sequence[nn.Linear],
    client: int,
    examples: Examples,
    tests: Examples,
) -> None:
    """A client's two predictors, with and without the classes that it has no image of."""
    g_head, g_aux, l_head = their_heads
    held = examples.labels.bincount(minlength=CLASSES) > 0
    context = ClientContext()
    scores = score(FedLoGe(TRAINING), model, tests, context, held=held)
    logits = FedLoGe(TRAINING).predict(model, tests.batch(torch.arange(len(tests)))[0], context)
    for name in (PLAIN, REALIGNED):
        aux, own = copy.deepcopy(g_aux), copy.deepcopy(l_head)
        if name == REALIGNED:
            _, aux, own, _ = loaders_of(theirs, examples, 0).update_weights_norm_init(
                copy.deepcopy(backbone),
                g_aux=aux,
                g_head=copy.deepcopy(g_head),
                l_head=own,
                seed=0,
                net_glob=None,
                epoch=0,
            )
        for masked in (False, True):
            there = held.numpy() if masked else np.ones(CLASSES, bool)
            data = types.SimpleNamespace(get_args=arguments, local_test_distribution=[there.astype(int)])
            heads = copy.deepcopy(aux), copy.deepcopy(own)
            with recording(heads[0]) as first, recording(heads[1]) as second:
                accuracy, *_ = theirs.update.localtest(
                    copy.deepcopy(backbone), *heads, images_and_labels(tests), data, range(len(tests)), 0
                )
            official = torch.cat(first) + torch.cat(second)
            predictor = joined(name, MASKED) if masked else name
            kept = torch.from_numpy(there)
            right = scores[named(predictor, CORRECT)]
            row(
                f"client {client} {predictor or 'plain'}, logits",
                largest(logits[name][:, kept], official[:, kept]),
                f"right official {round(accuracy * len(tests))}, here {right}",
                *([f"masked logits below {official[:, ~kept].max().item():.0e}"] if not kept.all() else []),
            )


@contextlib.contextmanager
def recording(head: nn.Linear) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    try:
        yield seen
    finally:
        hook.remove()
