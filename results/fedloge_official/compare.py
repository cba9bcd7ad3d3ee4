"""FedLoGe here against the authors' code: ``python -m results.fedloge_official.compare --code DIR --data FILE``.

``DIR`` holds the folders ``util`` and ``model`` of the authors' repository (f4cac526) and ``FILE`` is
``cifar10_lt10.npz``. Each row that is printed is one comparison, a lone number the largest difference of any entry.
``--full`` adds the frames after all 10,000 steps, half a minute's work.
"""

import argparse
import contextlib
import copy
import importlib
import importlib.util
import io
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ConfigRecord, RecordDict
from torch import nn
from torch.utils.data import DataLoader

from clients import FedLoGe
from clients.fedloge import AUXILIARY, REALIGNED
from datasets.examples import Examples
from datasets.shots import SHOTS, shots_by_share
from datasets.source import Part, Source
from datasets.splits.longtail import LongTail
from datasets.splits.own_tests import matched_tests
from datasets.splits.steps import Pool
from datasets.transforms import Transform
from fedsim.averaging import RunningAverage
from fedsim.heads import LocalGenericHeads, use_local_generic
from fedsim.heads.etf import simplex_frame
from fedsim.heads.sparse_frame import sparse_frame
from fedsim.method import PLAIN, LocalTraining, Turn
from fedsim.models.classifier import classifier_of, features_seen
from fedsim.models.resnet import resnet18, resnet34
from fedsim.scoring import CORRECT, MASKED, joined, named, score

SPARSITY, NORM, FULL = 0.6, 0.1, 10_000
CLASSES, FEATURES = 10, 16
CLIENTS = {120: range(10), 77: range(6), 45: (0, 2, 7)}
"""Training images and classes of the three clients; no last batch is a single image."""
TRAINING = LocalTraining(local_epochs=2, batch_size=8, lr=0.03, momentum=0.5)
ROUNDS, TESTS = 2, 30
SETTINGS = {
    f"CIFAR-{classes}-LT alpha {alpha:g} IF {factor:g}": (classes, alpha, factor)
    for classes in (10, 100)
    for alpha in (0.5, 1.0)
    for factor in (0.02, 0.01)
}
State = dict[str, torch.Tensor]


class Backbone(nn.Module):
    """Two convolutions with BatchNorm, called as the authors call a network: it answers with the features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, FEATURES, 3, stride=2, bias=False), nn.BatchNorm2d(FEATURES), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )

    def forward(self, images: torch.Tensor, latent_output: bool = True) -> torch.Tensor:
        features: torch.Tensor = self.layers(images)
        return features


class AsDoubles(Transform):
    def __call__(self, pixels: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return pixels.double() / 127.5 - 1


class Batches:
    """The batches that a client here draws, for a loader of the authors."""

    def __init__(self, examples: int, seed: int) -> None:
        self.examples, self.generator = examples, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[list[int]]:
        yield from (each.tolist() for each in FedLoGe(TRAINING).batches(self.examples, self.generator))


class LabelsOnly:
    """In the place of torchvision's CIFAR sets: as many labels, and images of one number."""

    classes = 10

    def __init__(self, root: str, train: bool = True, *_: object, **__: object) -> None:
        classes = getattr(self, "cls_num", self.classes)
        count = 50_000 if train else 10_000
        self.targets = np.repeat(np.arange(classes), count // classes).tolist()
        self.data = np.zeros((count, 1))

    def __len__(self) -> int:
        return len(self.data)


class LabelsOnly100(LabelsOnly):
    classes = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="To copy construct from a tensor")
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_: tensor):
        theirs = authors(given.code)
        frames(theirs, given.full)
        with np.load(given.data) as data:
            networks(theirs, data)
            training_to_predictions(theirs, data)
        shot_rules(theirs)
        protocol(theirs)


def authors(code: Path) -> types.SimpleNamespace:
    """Their modules. What is only imported and not there is replaced by an empty module."""
    sys.path.insert(0, str(code))
    for name, attribute in (("seaborn", ""), ("imghdr", "tests")):
        if importlib.util.find_spec(name) is None:
            module = types.ModuleType(name)
            setattr(module, attribute or "unused", None)
            sys.modules[name] = module
    names = {"etf": "etf_methods", "update": "update_baseline", "fedavg": "fedavg", "util": "util", "data": "dataset"}
    with mock.patch.multiple("torchvision.datasets", CIFAR10=LabelsOnly, CIFAR100=LabelsOnly100):
        modules = {name: importlib.import_module(f"util.{module}") for name, module in names.items()}
    return types.SimpleNamespace(**modules, networks=importlib.import_module("model.model_res"))


def row(what: str, *values: object) -> None:
    print(f"{what}:", *(f"{value:.1e}" if isinstance(value, float) else value for value in values), flush=True)


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def quietly() -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stdout(io.StringIO())


# 1. SSE-C


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


# The networks, beside the five comparisons of FedLoGe itself


def networks(theirs: types.SimpleNamespace, data: Any) -> None:
    images, _ = tensors(data["test_images"][:4], data["test_labels"][:4])
    for name, make in (("ResNet18", resnet18), ("ResNet34", resnet34)):
        torch.manual_seed(0)
        official: Any = getattr(theirs.networks, name)(CLASSES).double()
        ours = make(CLASSES).double()
        scale = official.layer2[0].conv2.weight.std().item(), ours.state_dict()["layer2.0.conv2.weight"].std().item()
        with torch.no_grad():
            for parameter in official.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) / 4)
        state = [value for key, value in official.state_dict().items() if not key.startswith("projection")]
        ours.load_state_dict(dict(zip(ours.state_dict(), state, strict=True)))
        difference = 0.0
        with torch.no_grad(), features_seen(classifier_of(ours, "this")[1]) as seen:
            for training in (True, False):
                ours.train(training)
                official.train(training)
                ours(AsDoubles((0.5,), (0.5,))(images, None))
                expected = official(AsDoubles((0.5,), (0.5,))(images, None), latent_output=True)
                difference = max(difference, largest(seen.pop(), expected))
        row(f"{name}, features in training and evaluation", difference)
        row("  deviation of a convolution's first weights", f"official {scale[0]:.4f}, here {scale[1]:.4f}")


# 2 to 4. Training, aggregation, realignment


def training_to_predictions(theirs: types.SimpleNamespace, data: Any) -> None:
    clients = [chosen(data, count, classes) for count, classes in CLIENTS.items()]
    torch.manual_seed(0)
    network = nn.Sequential(Backbone(), nn.Linear(FEATURES, CLASSES))
    model = use_local_generic(network, norm=NORM, steps=500, bias="random").double()
    heads = heads_of(model)
    heads.generic.make()
    backbone = copy.deepcopy(model.get_submodule("0"))
    g_head, g_aux = plain(heads.generic), plain(heads.auxiliary)
    l_heads = [plain(heads.personal) for _ in clients]
    personal = [own_part(model) for _ in clients]
    shared = shared_part(model)
    for round in range(1, ROUNDS + 1):
        trained, official = [], []
        for client, examples in enumerate(clients):
            model.load_state_dict({**model.state_dict(), **shared, **personal[client]})
            turn = Turn(round, torch.Generator().manual_seed(100 * round + client), ConfigRecord(), RecordDict())
            FedLoGe(TRAINING).train(model, examples, turn)
            trained.append(shared_part(model))
            personal[client] = own_part(model)
            update = loaders_of(theirs, examples, 100 * round + client)
            state, aux, l_heads[client], _ = update.update_weights_gaux(
                *(copy.deepcopy(backbone), copy.deepcopy(g_head), copy.deepcopy(g_aux), l_heads[client]),
                epoch=TRAINING.local_epochs,
            )
            official.append((state, aux))
        pairs = list(zip(trained, official, strict=True))
        row(f"round {round}, backbone after training", max(backbone_difference(*pair) for pair in pairs))
        row(
            f"round {round}, auxiliary head after training",
            max(head_difference(one, "auxiliary", aux) for one, (_, aux) in pairs),
        )
        row(
            f"round {round}, personal heads after training",
            max(head_difference(one, "personal", head) for one, head in zip(personal, l_heads, strict=True)),
        )
        shared, sizes = average(trained, clients), [len(examples) for examples in clients]
        state = theirs.fedavg.FedAvg_noniid([state for state, _ in official], sizes)
        g_aux = theirs.fedavg.FedAvg_noniid_classifier([aux for _, aux in official], sizes)
        row(f"round {round}, backbone after aggregation", backbone_difference(shared, (state, None)))
        row(f"round {round}, auxiliary head after aggregation", head_difference(shared, "auxiliary", g_aux))
        counter = "layers.1.num_batches_tracked"
        row("  BatchNorm's counter", f"official {state[counter].item():g}, here {shared[f'0.{counter}'].item()}")
        backbone.load_state_dict(state)
    model.load_state_dict({**model.state_dict(), **shared})
    tests = chosen(data, CLASSES * TESTS, range(CLASSES), "test")
    of_the_server(theirs, model, backbone, g_head, g_aux, tests)
    for client, examples in enumerate(clients):
        model.load_state_dict({**model.state_dict(), **personal[client]})
        of_a_client(theirs, model, backbone, (g_head, g_aux, l_heads[client]), client, examples, tests)


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
    scores = score(FedLoGe(TRAINING), model, tests, own=False)
    logits = FedLoGe(TRAINING).predict(model, tests.batch(torch.arange(len(tests)))[0], own=False)
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
    scores = score(FedLoGe(TRAINING), model, tests, own=True, held=held)
    logits = FedLoGe(TRAINING).predict(model, tests.batch(torch.arange(len(tests)))[0], own=True)
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


def chosen(data: Any, count: int, classes: Sequence[int], part: str = "train") -> Examples:
    """The first images of these classes, as many of each as possible."""
    labels = data[f"{part}_labels"]
    places = [np.flatnonzero(labels == label) for label in classes]
    shares = [len(each) for each in np.array_split(np.arange(count), len(places))]
    picked = np.concatenate([each[:share] for each, share in zip(places, shares, strict=True)])
    return Examples(*tensors(data[f"{part}_images"][picked], labels[picked]), AsDoubles((0.5,), (0.5,)))


def tensors(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)


def images_and_labels(examples: Examples) -> list[tuple[torch.Tensor, int]]:
    images, labels = examples.batch(torch.arange(len(examples)))
    return list(zip(images, labels.tolist(), strict=True))


def arguments() -> types.SimpleNamespace:
    training = {"lr": TRAINING.lr, "momentum": TRAINING.momentum, "local_bs": TRAINING.batch_size}
    return types.SimpleNamespace(**training, device="cpu", num_classes=CLASSES)


def loaders_of(theirs: types.SimpleNamespace, examples: Examples, seed: int) -> Any:
    """Their client, with the batches of ours."""

    def loader(dataset: Any, batch_size: int, shuffle: bool = False) -> Any:
        if shuffle:
            return DataLoader(dataset, batch_sampler=Batches(len(dataset), seed))
        return DataLoader(dataset, batch_size)

    with mock.patch.object(theirs.update, "DataLoader", loader):
        return theirs.update.LocalUpdate(arguments(), images_and_labels(examples), range(len(examples)))


def heads_of(model: nn.Module) -> LocalGenericHeads:
    heads = model.get_submodule("1")
    assert isinstance(heads, LocalGenericHeads)
    return heads


def plain(head: nn.Linear) -> nn.Linear:
    linear = nn.Linear(head.in_features, head.out_features).double()
    linear.load_state_dict(head.state_dict())
    return linear


def own_part(model: nn.Module) -> State:
    return _copied(model, "1.personal")


def shared_part(model: nn.Module) -> State:
    return _copied(model, "0.", "1.auxiliary")


def _copied(model: nn.Module, *beginnings: str) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith(beginnings)}


def average(states: Sequence[State], clients: Sequence[Examples]) -> State:
    mean = RunningAverage()
    for state, examples in zip(states, clients, strict=True):
        mean.add(state, len(examples))
    return mean.result()


def backbone_difference(ours: State, official: tuple[State, object]) -> float:
    """Of weights and running statistics; a counter has no weight."""
    return max(largest(ours[f"0.{key}"], value) for key, value in official[0].items() if "num_batches" not in key)


def head_difference(ours: State, name: str, official: nn.Linear) -> float:
    return max(largest(ours[f"1.{name}.{key}"], value) for key, value in official.state_dict().items())


@contextlib.contextmanager
def recording(head: nn.Linear) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    try:
        yield seen
    finally:
        hook.remove()


# 5. Class sizes, many, medium and few, local test sets


def class_sizes(classes: int, factor: float) -> list[int]:
    return [LongTail(factor).size(50_000 // classes, rank, classes) for rank in range(classes)]


def their_shots(theirs: types.SimpleNamespace, counts: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
    groups, _ = theirs.util.shot_split(counts, threshold_3shot=[75, 95])
    names = dict(zip(("head", "middle", "tail"), SHOTS, strict=True))
    by_class = {label: names[group] for group, labels in groups.items() for label in labels}
    return [by_class[label] for label in range(len(counts))]


def shot_rules(theirs: types.SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, 30, size) for size in rng.integers(3, 30, 500)]
    different = [shots_by_share(draw) != their_shots(theirs, draw) for draw in draws if draw.any()]
    row("shot_split of random counts, some of them zero or equal", f"{sum(different)} of {len(different)} differ")


def protocol(theirs: types.SimpleNamespace) -> None:
    for name, (classes, alpha, factor) in SETTINGS.items():
        data, train, test, users, local_tests = their_split(theirs, classes, alpha, factor)
        labels, test_labels = np.array(train.targets), np.array(test.targets)
        sizes = class_sizes(classes, factor)
        assert np.bincount(labels).tolist() == sizes
        row(name, f"{sum(sizes)} images, sizes as official; first client {data.training_set_distribution[0][:10]}")
        counts = [np.bincount(test_labels[list(local_tests[user])], minlength=classes) for user in users]
        ours = our_tests(labels, test_labels, users)
        row("  local test sets", f"largest difference of a count {np.abs(np.subtract(ours, counts)).max()}")
        held = data.training_set_distribution > 0
        missed = held & (data.local_test_distribution == 0)
        images = np.unique(data.training_set_distribution[missed]).tolist()
        row("  classes of a client that it has images of", held.sum(), f"masked all the same {missed.sum()}", images)
        shots = shots_by_share(sizes), their_shots(theirs, sizes), their_shots(theirs, data.global_test_distribution)
        row("  many, medium, few of the class sizes", group_sizes(shots[0]), f"{differing(*shots[:2])} differ")
        row("  official groups, of the local test sets", group_sizes(shots[2]), f"{differing(*shots[1:])} differ")


def group_sizes(shots: Sequence[str]) -> list[int]:
    return [shots.count(shot) for shot in SHOTS]


def differing(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(first != second for first, second in zip(one, other, strict=True))


def their_split(theirs: types.SimpleNamespace, classes: int, alpha: float, factor: float) -> Any:
    options: dict[str, object] = {"gpu": -1, "dataset": f"cifar{classes}", "IF": factor, "alpha_dirichlet": alpha}
    options |= {"iid": False, "num_users": 40 if classes == 10 else 20, "non_iid_prob_class": 1, "seed": 3407}
    data = theirs.data.myDataset(types.SimpleNamespace(**options))
    with mock.patch.multiple("torchvision.datasets", CIFAR10=LabelsOnly, CIFAR100=LabelsOnly100), quietly():
        return data, *data.get_imbalanced_dataset(data.get_args())


def our_tests(
    labels: npt.NDArray[np.int64], test_labels: npt.NDArray[np.int64], users: dict[int, set[int]]
) -> list[npt.NDArray[np.int64]]:
    """The counts of ``split.test=matched`` for clients that hold what theirs hold."""
    every = np.concatenate([labels, test_labels])
    parts = np.repeat([Part.TRAIN, Part.TEST], [len(labels), len(test_labels)]).astype(np.uint8)
    classes = tuple(map(str, range(every.max() + 1)))
    source = Source(np.zeros((len(every), 1, 1, 1), np.uint8), every, np.zeros_like(every), parts, ("all",), classes)
    pools = [Pool(f"/{user}", "all", np.array(sorted(images))) for user, images in users.items()]
    tests = matched_tests(pools, source, {"all": source.indices(0, Part.TEST)}, seed=0)
    return [np.bincount(every[test], minlength=len(classes)) for test in tests]


if __name__ == "__main__":
    main()
