"""Every answer of every method: only what docs/devices.md lists, and nothing that grows with the number of images."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from flwr.app import Array, Message

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.composition import choices
from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.messages.schema import kind_of
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import ROOT
from tests.methods import some_by_day

METHODS = {
    "apfl": (),
    "central": (),
    "creff": ("strategy.match_steps=3", "strategy.retrain_epochs=2"),
    "ditto": (),
    "fbn": (),
    "fdse": (),
    "fedadagrad": (),
    "fedadam": (),
    "fedavg": ("mask_absent_classes=true", "compression=int8"),
    "fedavgm": (),
    "fedbn": ("tta=tent", "split.validation=0.2", "compression=fp16"),
    "feddst": ("strategy.interval=2", "strategy.distribution=uniform"),
    "feddyn": (),
    "fedetf": (),
    "fedloge": ("mask_absent_classes=true", "head.steps=20"),
    "fednova": (),
    "fedper": (),
    "fedproto": (),
    "fedprox": (),
    "fedrep": (),
    "fedrod": ("mask_absent_classes=true",),
    "fedsam": (),
    "fedsr": (),
    "fedtan": (),
    "fedtiny": ("strategy.candidates=2", "strategy.interval=1"),
    "fedwon": (),
    "fedyogi": (),
    "fraug": ("strategy.latent=8",),
    "flower/FedTrimmedAvg": (),
    "hbn": (),
    "local": (),
    "lotteryfl": ("strategy.accuracy=0",),
    "moon": (),
    "pruned": ("strategy.criterion=snip",),
    "prunefl": ("strategy.interval=1",),
    "scaffold": ("norm.policy=fedbn",),
}
SPARSE = {"feddst", "fedtiny", "lotteryfl", "pruned", "prunefl"}
MEASURING = {"query.state", "evaluate.global_model"}
"""What devices do not answer, or the server's process answers in their place."""
PAGE = (ROOT / "docs" / "devices.md").read_text()
Seen = dict[tuple[str, int, str], dict[str, tuple[int, ...]]]
"""By what the message is about, client and record: its entries and how many numbers each holds."""


def _size(value: object) -> tuple[int, ...]:
    if isinstance(value, Array):
        return tuple(value.shape)
    return (len(value),) if isinstance(value, list) else ()


class Reading(InlineGrid):
    folds_evaluation = True  # type: ignore[assignment]

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.seen: Seen = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        for sent, reply in zip(messages, super().send_and_receive(messages, timeout=timeout), strict=True):
            assert reply.has_content(), reply.error.reason
            for name, record in reply.content.items():
                sizes = {entry: _size(value) for entry, value in record.items()}
                self.seen.setdefault((kind_of(sent), sent.metadata.dst_node_id, name), {}).update(sizes)
            yield reply


def read(settings: Settings, run_dir: Path) -> Seen:
    prepared = prepare(settings)
    grid = Reading(ClientAppFactory(settings, prepared.federation), 6, prepared.devices)
    run(prepared, run_dir, Reporter(), grid)
    return {key: entries for key, entries in grid.seen.items() if key[0] not in MEASURING}


def test_every_method_is_read_here() -> None:
    assert {method.partition("/")[0] for method in METHODS} == {each.partition("/")[0] for each in choices("strategy")}


@pytest.mark.parametrize("method", some_by_day(METHODS))
def test_answers_hold_what_the_page_says_and_their_size_does_not_depend_on_the_images(
    small_settings: Callable[..., Settings], tmp_path: Path, method: str
) -> None:
    words = (f"strategy={method}", *METHODS[method])
    few = read(small_settings(*words), tmp_path / "few")
    more = small_settings(*words, "dataset.train_per_domain=80", "dataset.test_per_domain=40")
    many = read(more, tmp_path / "more")
    model = prepare(small_settings(*words)).model.state_dict()
    if method in SPARSE:  # how many weights of a layer are kept is the server's choice, for all clients alike
        assert {key: [*entries] for key, entries in many.items()} == {key: [*entries] for key, entries in few.items()}
        assert all(entries == few[type_, 0, record] for (type_, _, record), entries in few.items())
    else:
        assert many == few
    for (type_, _, record), entries in few.items():
        assert f"`{type_}`" in PAGE, type_
        assert f"`{record}`" in PAGE or record == "metrics", record
        for entry, shape in entries.items():
            if record in ("config", "metrics") or record.startswith("evaluation-"):
                assert shape == (), (record, entry)  # single numbers, and not one for each image
                told = entry.rpartition("-")[2] if entry != "num-examples" else entry
                assert f"`{told}`" in PAGE or re.search(rf"\b{told}\b", PAGE), entry
            elif record in ("arrays", "control") and type_ == "train" and entry != "/scales":
                assert entry in model, entry
    assert {type_ for type_, _, _ in few} <= {*re.findall(r"`((?:query\.)?[a-z_]+)`", PAGE)}
