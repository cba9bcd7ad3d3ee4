"""Replies that must not reach an average, and a run that goes on without them."""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.arrays import to_record, to_tensors
from fedsim.client_host import ClientAppFactory
from fedsim.engines.inline import InlineGrid
from fedsim.errors import RoundFailed
from fedsim.messages import ARRAYS, CONFIG, METRICS, ROUND, TRAIN, arrays_of
from fedsim.progress import Reporter
from fedsim.results import Result
from fedsim.settings import Settings
from fedsim.simulation import prepare, run
from fedsim.vetting import fault_of

SENT = {"w": torch.tensor([0.5, -2.0]), "seen": torch.tensor(3)}


def reply(arrays: dict[str, torch.Tensor], round: int = 4, metrics: dict[str, float] | None = None) -> Message:
    InlineGrid  # noqa: B018  # importing an engine is what lets a Message be made outside of Flower's runtime
    content = RecordDict(
        {
            METRICS: MetricRecord({"num-examples": 8, "loss": 0.5} if metrics is None else metrics),
            ARRAYS: to_record(arrays),
            CONFIG: ConfigRecord({ROUND: round}),
        }
    )
    return Message(content, 1, TRAIN)


@pytest.fixture(autouse=True)
def grid(small_settings: Callable[..., Settings]) -> None:
    """Flower's messages know their sender once there is a grid."""
    InlineGrid(lambda device: None, 2, [torch.device("cpu")])  # type: ignore[arg-type,return-value]


def fault(arrays: dict[str, torch.Tensor], limit: float | None = 1000.0, **more: object) -> str | None:
    return fault_of(reply(arrays, **more), to_record(SENT), 4, limit)  # type: ignore[arg-type]


def test_what_training_does_is_let_through() -> None:
    assert fault({"w": torch.tensor([0.4, -2.1]), "seen": torch.tensor(9)}) is None
    assert fault({"w": torch.tensor([2000.0, -2.0]), "seen": torch.tensor(3)}) is None  # moved by 1999.5 of 2000


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"w": torch.tensor([0.5, float("nan")])}, "numbers in w that are not finite"),
        ({"w": torch.tensor([0.5, -float("inf")])}, "numbers in w that are not finite"),
        ({"w": torch.tensor([0.5])}, r"sent w as float32 \(1,\), which is float32 \(2,\)"),
        ({"w": torch.tensor([[0.5, 1.0]])}, r"sent w as float32 \(1, 2\)"),
        ({"w": SENT["w"].double()}, r"sent w as float64 \(2,\), which is float32"),
        ({"v": SENT["w"]}, r"other entries than it was sent \(v\)"),
        ({"w": torch.tensor([0.5e6, -2.0])}, "moved a number in w by 5e\\+05, more than update_limit=1000 times 2"),
    ],
)
def test_what_is_wrong_is_said(arrays: dict[str, torch.Tensor], words: str) -> None:
    import re

    found = fault({**SENT, **arrays})
    assert found is not None
    assert re.search(words, found), found


def test_of_another_round_without_images_or_with_a_loss_that_is_none() -> None:
    assert fault(SENT, round=3) == "it answered for round 3 in round 4"
    assert fault(SENT, metrics={"num-examples": 0}) == "it says that it has 0 images"
    assert fault(SENT, metrics={"num-examples": float("nan")}) == "it says that it has nan images"
    assert fault(SENT, metrics={"num-examples": 8, "loss": float("nan")}) == "its loss is not finite"
    assert fault({"w": SENT["w"]}) == "it sent other entries than it was sent (seen)"
    assert fault({**SENT, "w": torch.tensor([1e30, 0.0])}, limit=None) is None


class Tampering(InlineGrid):
    """Between the clients and the server something happens to the replies of client 2 in round 1."""

    def __init__(self, *args: object, tamper: Callable[[Message], None]) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.tamper = tamper

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for each in super().send_and_receive(messages, timeout=timeout):
            training = CONFIG in each.content and ROUND in each.content[CONFIG] if each.has_content() else False
            if training and each.metadata.src_node_id == 2 and each.content[CONFIG][ROUND] == 1:
                self.tamper(each)
            yield each


def change(name: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Message], None]:
    def tamper(message: Message) -> None:
        tensors = to_tensors(arrays_of(message))
        message.content[ARRAYS] = to_record({**tensors, name: edit(tensors[name].clone())})

    return tamper


def old_round(message: Message) -> None:
    message.content[CONFIG] = ConfigRecord({ROUND: 0})


HARMS = {
    "nan": (change("features.0.weight", lambda weight: weight * float("nan")), "not finite"),
    "shape": (change("features.0.weight", lambda weight: weight[:1]), "sent features.0.weight as"),
    "million": (change("features.0.weight", lambda weight: weight * 1e6), "moved a number in features.0.weight"),
    "old": (old_round, "answered for round 0"),
}


def tampered(settings: Settings, run_dir: Path, tamper: Callable[[Message], None] = lambda message: None) -> Result:
    prepared = prepare(settings)
    factory = ClientAppFactory(settings, prepared.federation)
    clients = len(prepared.federation.clients)
    return run(prepared, run_dir, Reporter(), Tampering(factory, clients, prepared.devices, tamper=tamper))


@pytest.mark.parametrize("harm", HARMS)
def test_the_round_completes_with_the_others_and_names_the_offender(
    small_settings: Callable[..., Settings], tmp_path: Path, harm: str
) -> None:
    tamper, words = HARMS[harm]
    settings = small_settings("strategy=fedavg", "min_fraction_success=0.5")
    result = tampered(settings, tmp_path / "run", tamper)
    with (tmp_path / "run" / "clients.csv").open() as file:
        faults = [row for row in csv.DictReader(file) if row["fault"]]
    assert [(row["round"], row["client"], row["split"], row["domain"]) for row in faults] == [
        ("1", "2", "train", result.clients["domain"][2])
    ]
    assert words in faults[0]["fault"]
    assert result.rounds["global_loss"].notna().all()
    assert result.rounds["global_loss"].iloc[-1] < 10  # a million times too large a weight would show


def test_unless_that_leaves_too_few(small_settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(RoundFailed, match=r"client 2 failed in round 1: it sent numbers in features.0.weight that"):
        tampered(small_settings("strategy=fedavg"), tmp_path / "run", HARMS["nan"][0])


def test_the_average_is_that_of_the_others(small_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """After one round the model is what the other five clients' replies average to, computed here."""
    settings = small_settings("strategy=fedavg", "rounds=1", "min_fraction_success=0.5")
    seen: dict[int, tuple[float, dict[str, torch.Tensor]]] = {}

    class Watching(Tampering):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            for each in super().send_and_receive(messages, timeout=timeout):
                if ARRAYS in each.content:
                    weight = float(each.content[METRICS]["num-examples"])  # type: ignore[arg-type]
                    seen[each.metadata.src_node_id] = (weight, to_tensors(arrays_of(each)))
                yield each

    prepared = prepare(settings)
    grid = Watching(ClientAppFactory(settings, prepared.federation), 6, prepared.devices, tamper=HARMS["nan"][0])
    run(prepared, tmp_path / "run", Reporter(), grid)
    from safetensors.torch import load_file

    model = load_file(tmp_path / "run" / "model.safetensors")
    others = [pair for client, pair in seen.items() if client != 2]
    assert len(others) == 5
    for name, tensor in model.items():
        if tensor.is_floating_point():
            expected = sum(weight * tensors[name].double() for weight, tensors in others) / sum(w for w, _ in others)
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
