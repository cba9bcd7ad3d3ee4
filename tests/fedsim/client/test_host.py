"""What the host keeps on a client, what it returns, and that one resident model never leaks from client to client."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from datasets.federation import Federation
from fedsim.client.host import ClientHost
from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import EVALUATE, EVALUATE_GLOBAL, TRAIN, arrays_of, message, metrics_of
from fedsim.methods.client_state import PERSONAL
from fedsim.methods.interfaces import ClientContext
from fedsim.metrics.scoring import score

CPU = torch.device("cpu")


@pytest.fixture
def host(small_settings: Callable[..., Settings], federation: Federation) -> ClientHost:
    InlineGrid(lambda device: None, 1, [CPU]).__exit__()  # type: ignore[arg-type,return-value]
    return ClientHost(small_settings(), federation, CPU)


def context(client: int) -> Context:
    return Context(1, client, {"partition-id": client}, RecordDict(), {})


def ask(type_: str, tensors: dict[str, torch.Tensor], client: int = 0, **config: int | str) -> Message:
    return message(type_, client, to_record(tensors), ConfigRecord({"server-round": 1, **config}))


def shared_of(host: ClientHost) -> dict[str, torch.Tensor]:
    """Everything but the first BatchNorm layer."""
    return {name: tensor.clone() for name, tensor in host.initial.items() if not name.startswith("features.1.")}


def test_what_is_not_sent_is_kept_and_not_returned(host: ClientHost) -> None:
    mine = context(0)
    reply = host.train(ask(TRAIN, shared_of(host)), mine)
    assert set(arrays_of(reply)) == set(shared_of(host))
    kept = mine.state[PERSONAL]
    assert set(kept) == {
        f"features.1.{e}" for e in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_the_personal_part_goes_on_where_it_was(host: ClientHost) -> None:
    """Training on after a detour over other clients equals training on at once."""
    mine, other = context(0), context(1)
    host.train(ask(TRAIN, shared_of(host)), mine)
    after_first = {name: tensor.clone() for name, tensor in to_tensors(mine.state[PERSONAL]).items()}  # type: ignore[arg-type]
    host.train(ask(TRAIN, shared_of(host), client=1), other)
    straight = host.train(ask(TRAIN, shared_of(host)), Context(1, 0, {"partition-id": 0}, mine.state.copy(), {}))
    for _ in range(2):
        host.train(ask(TRAIN, shared_of(host), client=1), other)
    detour = host.train(ask(TRAIN, shared_of(host)), Context(1, 0, {"partition-id": 0}, mine.state.copy(), {}))
    for name, tensor in to_tensors(arrays_of(straight)).items():
        assert torch.equal(tensor, to_tensors(arrays_of(detour))[name]), name
    # 40 images in batches of 32: two batches.
    assert after_first["features.1.num_batches_tracked"].item() == 2


def test_replies_do_not_change_when_the_next_client_trains(host: ClientHost) -> None:
    reply = host.train(ask(TRAIN, host.initial), context(0))
    before = {name: tensor.clone() for name, tensor in to_tensors(arrays_of(reply)).items()}
    host.train(ask(TRAIN, host.initial, client=1), context(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in to_tensors(arrays_of(reply)).items())


def test_a_client_is_evaluated_with_its_own_part_and_the_global_model_without(
    host: ClientHost, federation: Federation
) -> None:
    mine = context(2)
    spoiled = {
        name: torch.zeros_like(tensor) for name, tensor in host.initial.items() if name.startswith("features.1.")
    }
    mine.state[PERSONAL] = to_record(spoiled)  # gamma = beta = 0: all images look alike to this client
    own = metrics_of(host.evaluate(ask(EVALUATE, shared_of(host), client=2), mine))
    complete = metrics_of(host.evaluate_global(ask(EVALUATE_GLOBAL, host.initial, client=2, domain="faded"), mine))

    host.model.load_state_dict(host.initial)
    data = federation.examples(federation.domain_tests["faded"])
    expected = score(host.trainer, host.model, data, ClientContext(own=False))
    assert complete["loss"] == pytest.approx(expected["loss"])
    assert complete["correct"] == expected["correct"]
    assert sum(complete["correct-by-class"]) == expected["correct"]  # type: ignore[arg-type]
    assert "correct-by-class" not in own  # how a client's classes fare is not told
    assert own["loss"] != pytest.approx(expected["loss"])
    assert own["correct"] == pytest.approx(2, abs=1)  # one class for all of 20 images


def test_entries_that_are_not_the_models_are_an_error(host: ClientHost) -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        host.train(ask(TRAIN, {**host.initial, "nonsense": torch.zeros(1)}), context(0))


def test_batches_depend_on_client_and_round_only(host: ClientHost) -> None:
    def weights(client: int, round: int) -> torch.Tensor:
        reply = host.train(ask(TRAIN, host.initial, client=client, **{"server-round": round}), context(client))
        return to_tensors(arrays_of(reply))["head.weight"]

    assert torch.equal(weights(0, 1), weights(0, 1))
    assert not torch.equal(weights(0, 1), weights(0, 2))
