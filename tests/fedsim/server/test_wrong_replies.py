"""Wrong replies in whole runs: the round completes with the others, and the offender is named."""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message
from safetensors.torch import load_file

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import RoundFailed
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    ARRAYS,
    CONFIG,
    METRICS,
    ROUND,
    arrays_of,
)
from fedsim.methods.sparse.records import (
    BN_STATISTICS,
    CANDIDATE_LOSS,
)
from fedsim.output.progress import Reporter
from fedsim.output.results import Result
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run


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


class Refusing(InlineGrid):
    """Client 2 answers no question that a method has before it trains."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        for message, reply in zip(messages, super().send_and_receive(messages, timeout=timeout), strict=True):
            refuses = message.metadata.message_type.startswith("query.") and message.metadata.dst_node_id == 2
            yield Message(Error(0, "no time\nand details"), reply_to=message) if refuses else reply


def test_who_does_not_answer_before_training_stands_in_the_table(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    prepared = prepare(small_settings("strategy=fedtiny", "strategy.candidates=3", "rounds=1"))
    grid = Refusing(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
    run(prepared, tmp_path, Reporter(), grid)
    with (tmp_path / "clients.csv").open() as file:
        faults = [row for row in csv.DictReader(file) if row["fault"]]
    assert [(row["round"], row["client"], row["split"], row["fault"]) for row in faults] == [
        ("1", "2", f"query.{BN_STATISTICS}", "no time"),
        ("1", "2", f"query.{CANDIDATE_LOSS}", "no time"),
    ]


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
                if ARRAYS in each.content and ROUND in each.content.config_records.get(CONFIG, {}):
                    weight = float(each.content[METRICS]["num-examples"])  # type: ignore[arg-type]
                    seen[each.metadata.src_node_id] = (weight, to_tensors(arrays_of(each)))
                yield each

    prepared = prepare(settings)
    grid = Watching(ClientAppFactory(settings, prepared.federation), 6, prepared.devices, tamper=HARMS["nan"][0])
    run(prepared, tmp_path / "run", Reporter(), grid)
    model = load_file(tmp_path / "run" / "model.safetensors")
    others = [pair for client, pair in seen.items() if client != 2]
    assert len(others) == 5
    for name, tensor in model.items():
        if tensor.is_floating_point():
            expected = sum(weight * tensors[name].double() for weight, tensors in others) / sum(w for w, _ in others)
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
