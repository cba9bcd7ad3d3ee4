"""FedDST: what the server makes of clients that hold different weights, by hand, and replies that it must not see."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from safetensors.torch import load_file

from fedsim.arrays import to_record, to_tensors
from fedsim.client_host import ClientAppFactory
from fedsim.compression import RESIDUAL
from fedsim.engines.inline import InlineGrid
from fedsim.errors import UserError
from fedsim.messages import ARRAYS, CONFIG, MASKS, METRICS, REPLACE, ROUND, TRAIN, arrays_of, bytes_of, config_of
from fedsim.progress import Reporter
from fedsim.pruning.masks import Masks, decode, density, encode, kept
from fedsim.results import Result
from fedsim.settings import Settings
from fedsim.simulation import Prepared, prepare, run
from fedsim.vetting import Vetting
from strategies import FedDST
from tests.conftest import small_settings

MakeSettings = Callable[..., Settings]
Tensors = dict[str, torch.Tensor]
UNIFORM = "strategy.distribution=uniform"
SMALL = ("strategy=feddst", "strategy.density=0.2", UNIFORM, "strategy.rate=0.3", "engine=inline")
EVERY = ("strategy.interval=1", "strategy.stop_round=4")


class Watched(InlineGrid):
    """Keeps what it passes on; some replies may be lost or changed on the way."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
        self.seen: list[tuple[Message, Message]] = []
        self.forms: list[str] = []
        """Of the numbers of one layer, in the answers to training"""
        self.failing: set[int] = set()
        self.change: Callable[[Message], None] = lambda reply: None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            (reply,) = super().send_and_receive([message])
            if message.metadata.dst_node_id in self.failing:
                reply = Message(Error(0, "gone"), reply_to=message)
            if message.metadata.message_type == TRAIN and message.metadata.dst_node_id == 2:
                self.change(reply)
            if message.metadata.message_type == TRAIN and reply.has_content():
                self.forms += [array.dtype for name, array in arrays_of(reply).items() if name == "head.weight"]
            self.seen.append((message, reply))
            yield reply

    def trained(self) -> list[tuple[Message, Message]]:
        return [pair for pair in self.seen if pair[0].metadata.message_type == TRAIN]


def dst(prepared: Prepared) -> FedDST:
    assert isinstance(prepared.strategy, FedDST)
    return prepared.strategy


def played(prepared: Prepared, grid: Watched, rounds: int) -> Iterator[tuple[int, Masks, Tensors, list[Message]]]:
    """Round by round the masks that were sent, the average and the replies."""
    arrays = dict(prepared.model.state_dict())
    for round in range(1, rounds + 1):
        messages = list(prepared.strategy.configure_train(round, to_record(arrays), ConfigRecord(), grid))
        masks = dict(dst(prepared).masks)
        replies = list(grid.send_and_receive(messages))
        average, _ = prepared.strategy.aggregate_train(round, replies)
        assert average is not None
        arrays = to_tensors(average)
        yield round, masks, arrays, replies


def masks_in(reply: Message, prepared: Prepared) -> Masks:
    return decode(to_tensors(reply.content.array_records[MASKS]), dst(prepared).shapes)


def joined_by_hand(
    replies: list[Message], weights: dict[int, float], prepared: Prepared, count: int, layer: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's mask and weight, of the replies."""
    shape = dst(prepared).shapes[layer]
    total, held = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for reply in replies:
        if not reply.has_error():
            mask, weight = masks_in(reply, prepared)[layer], weights[reply.metadata.src_node_id]
            total[mask] += weight * to_tensors(arrays_of(reply))[f"{layer}.weight"].double()
            held[mask] += weight
    mean = torch.where(held > 0, total / held, 0).float()
    order = sorted(range(shape.numel()), key=lambda place: -abs(mean.flatten()[place].item()))
    mask = torch.zeros(shape.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(shape), mean.where(mask.view(shape), 0)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_a_weight_is_averaged_over_those_who_hold_it_and_the_largest_are_kept(
    small_settings: MakeSettings, weighting: str
) -> None:
    prepared = prepare(small_settings(*SMALL, *EVERY, f"strategy.weighting={weighting}", "split=dirichlet"))
    grid, strategy = Watched(prepared), dst(prepared)
    grid.failing = {1}
    sizes = {client: float(len(each.train)) for client, each in enumerate(prepared.federation.partitions)}
    assert len(set(sizes.values())) > 1
    _, before, after, replies = next(played(prepared, grid, 1))
    assert len(replies) == 6
    for layer in before:
        weights = sizes if weighting == "examples" else dict.fromkeys(sizes, 1.0)
        mask, weight = joined_by_hand(replies, weights, prepared, int(before[layer].sum()), layer)
        assert torch.equal(strategy.masks[layer], mask)
        torch.testing.assert_close(after[f"{layer}.weight"], weight, rtol=1e-5, atol=1e-8)
        assert not mask.equal(before[layer])
        everyone = [masks_in(reply, prepared)[layer] for reply in replies if not reply.has_error()]
        assert not any(each.equal(everyone[0]) for each in everyone[1:])  # each found weights of its own
    assert strategy.levels.whole.given.holders == set()  # nobody has the new masks


def test_masks_change_and_every_layer_keeps_its_density(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.interval=2", "strategy.stop_round=5", "local_epochs=2"))
    grid, changed = Watched(prepared), []
    first = None
    for round, before, arrays, replies in played(prepared, grid, 6):
        first = kept(before) if first is None else first
        after, asked = dst(prepared).masks, config_of(grid.trained()[-1][0])
        assert kept(after) == kept(before) == first
        assert density(after) == pytest.approx(0.2, abs=1e-5)
        changed.append(any(not mask.equal(before[layer]) for layer, mask in after.items()))
        share = 0.15 * (1 + math.cos(math.pi * round / 5))
        counts = {layer: math.ceil(share * count) for layer, count in kept(before).items()} if round in (2, 4) else {}
        assert {name: asked[name] for name in asked if name.startswith(REPLACE)} == {
            f"{REPLACE}{layer}": count for layer, count in counts.items()
        }
        for reply in replies:
            assert (MASKS in reply.content) == bool(counts)
            mine = masks_in(reply, prepared) if counts else before
            assert kept(mine) == kept(before)
            for layer, mask in mine.items():
                assert len(to_tensors(arrays_of(reply))[f"{layer}.weight"]) == int(mask.sum())
                assert int((mask & ~before[layer]).sum()) <= counts.get(layer, 0)
        for layer, mask in after.items():
            assert not arrays[f"{layer}.weight"][~mask].any()
            assert arrays[f"{layer}.weight"][mask].all()
    assert changed == [False, True, False, True, False, False]
    with_masks = [MASKS in message.content for message, _ in grid.trained()[::6]]
    assert with_masks == [True, False, True, False, True, False]


def test_a_layer_that_is_full_has_nothing_to_replace(small_settings: MakeSettings) -> None:
    """As ERK leaves the smallest layer here."""
    prepared = prepare(small_settings(*SMALL, *EVERY, "strategy.distribution=erk"))
    for _, before, after, replies in played(prepared, Watched(prepared), 3):
        assert before["head"].all()
        assert all(set(reply.content.array_records[MASKS]) == set(before) - {"head"} for reply in replies)
        sizes = [len(partition.train) for partition in prepared.federation.partitions]
        mean = sum(
            n * to_tensors(arrays_of(reply))["head.weight"].double() for n, reply in zip(sizes, replies, strict=True)
        )
        torch.testing.assert_close(after["head.weight"].flatten(), (mean / sum(sizes)).float())  # type: ignore[operator]
        assert kept(dst(prepared).masks) == kept(before)


def test_what_all_clients_drop_is_gone(small_settings: MakeSettings) -> None:
    """Before any training all drop the same, and the share is so large that what they find differs."""
    prepared = prepare(small_settings(*SMALL, *EVERY, "strategy.adjust_after=0", "strategy.rate=1"))
    _, before, after, replies = next(played(prepared, Watched(prepared), 1))
    for layer, mask in before.items():
        gone = mask & ~torch.stack([masks_in(reply, prepared)[layer] for reply in replies]).any(dim=0)
        assert gone.any()
        assert not dst(prepared).masks[layer][gone].any()
        assert not after[f"{layer}.weight"][gone].any()


def test_of_weights_that_are_zero_those_that_nobody_holds_are_not_kept(small_settings: MakeSettings) -> None:
    """What comes after the last step is zero, and may be kept only where too few others are left."""
    prepared = prepare(small_settings(*SMALL, *EVERY, "strategy.adjust_after=1", "fraction=0.17"))
    _, before, after, (reply,) = next(played(prepared, Watched(prepared), 1))  # one client, so that all of it is kept
    for layer, mask in masks_in(reply, prepared).items():
        assert torch.equal(dst(prepared).masks[layer], mask)
        come = mask & ~before[layer]
        assert come.any()
        assert not after[f"{layer}.weight"][come].any()


def test_without_an_adjustment_it_is_the_pruned_network_bit_for_bit(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    words = ("strategy.density=0.2", "engine=inline", "rounds=3", "fraction=0.5")
    run(prepare(small_settings("strategy=pruned", "strategy.distribution=erk", *words)), tmp_path / "a", Reporter())
    run(prepare(small_settings("strategy=feddst", *words)), tmp_path / "b", Reporter())
    for name in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_run_that_was_stopped_goes_on_bit_for_bit(small_settings: MakeSettings, tmp_path: Path) -> None:
    class Stops(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 2:
                raise KeyboardInterrupt

    words = (*SMALL, *EVERY, "rounds=4", "fraction=0.5", "strategy.adjust_after=0.3")
    run(prepare(small_settings(*words)), tmp_path / "whole", Reporter())
    with pytest.raises(KeyboardInterrupt):
        run(prepare(small_settings(*words)), tmp_path / "stopped", Stops())
    run(prepare(small_settings(*words, f"resume={tmp_path / 'stopped'}")), tmp_path / "stopped", Reporter())
    run(prepare(small_settings(*words, "engine=process", "engine.workers=2")), tmp_path / "workers", Reporter())
    for other in ("stopped", "workers"):
        for name in ("clients.csv", "model.safetensors"):
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / other / name).read_bytes()
        traffic = [pd.read_csv(tmp_path / each / "rounds.csv") for each in ("whole", other)]
        for column in ("bytes_up", "bytes_down", "device_gflops", "device_memory_mb"):
            assert traffic[0][column].tolist()[1:] == traffic[1][column].tolist()[1:]


def test_the_accounts_say_what_a_round_took(small_settings: MakeSettings, tmp_path: Path) -> None:
    prepared = prepare(small_settings(*SMALL, "strategy.interval=2", "strategy.stop_round=8", "rounds=3"))
    loads = []
    grid = Watched(prepared)
    for _, masks, _, replies in played(prepared, grid, 3):
        loads.append(prepared.strategy.workload(0))
        mask_bytes = sum(code.nbytes for code in encode(masks).values())
        counted = [
            bytes_of(reply) - sum(array.nbytes for array in to_tensors(arrays_of(reply)).values()) for reply in replies
        ]
        assert counted == [mask_bytes if loads[-1].top_k else 0] * 6
    count = sum(math.ceil(0.15 * (1 + math.cos(math.pi / 4)) * each) for each in kept(dst(prepared).masks).values())
    assert [load.top_k for load in loads] == [0, count, 0]
    assert [load.dense_steps for load in loads] == [load.extra_steps for load in loads] == [0, 1, 0]
    assert [set(load.dense_layers) for load in loads] == [set(), set(dst(prepared).shapes), set()]
    rounds = run(prepare(prepared.settings), tmp_path / "run", Reporter()).rounds
    flops, memory = rounds["device_gflops"].tolist()[1:], rounds["device_memory_mb"].tolist()[1:]
    assert flops[0] == flops[2] < flops[1]
    assert memory[0] == memory[2] < memory[1] == pytest.approx(memory[0] + 8 * count / 1e6, rel=1e-3)
    assert rounds["density"].tolist()[1:] == pytest.approx([0.2] * 3, abs=1e-4)


def nonsense(reply: Message, **codes: torch.Tensor | None) -> None:
    """Other masks, of a name with underscores for its dots; without those that are None."""
    told = to_tensors(reply.content.array_records[MASKS])
    changed = {**told, **{name.replace("_", "."): code for name, code in codes.items()}}
    reply.content[MASKS] = to_record({name: code for name, code in changed.items() if code is not None})


def told(reply: Message, layer: str) -> torch.Tensor:
    return to_tensors(reply.content.array_records[MASKS])[layer].clone()


def with_a_place(reply: Message, place: int) -> None:
    code = told(reply, "head")
    assert code.dtype == torch.int32
    code[0] = place
    nonsense(reply, head=code)


def a_billion(reply: Message) -> None:
    tensors = to_tensors(arrays_of(reply))
    tensors["head.weight"] = tensors["head.weight"].clone()
    tensors["head.weight"][0] = 1e9
    reply.content[ARRAYS] = to_record(tensors)


HARMS: dict[str, tuple[Callable[[Message], None], str]] = {
    "none": (lambda reply: reply.content.pop(MASKS), "it sent the masks of other layers than it was asked for"),
    "a layer less": (lambda reply: nonsense(reply, head=None), "it sent the masks of other layers than it was asked"),
    "a layer more": (
        lambda reply: nonsense(reply, features_0=told(reply, "head")),
        "masks of other layers than it was",
    ),
    "one weight less": (lambda reply: nonsense(reply, head=told(reply, "head")[1:]), "its mask of head keeps "),
    "one twice": (lambda reply: with_a_place(reply, int(told(reply, "head")[1])), "its mask of head keeps "),
    "a place too far": (lambda reply: with_a_place(reply, 10**6), "this is no mask of head, which has 5760 weights"),
    "before the first": (lambda reply: with_a_place(reply, -1), "this is no mask of head, which has 5760 weights"),
    "numbers": (lambda reply: nonsense(reply, head=told(reply, "head").float()), "this is no mask of head"),
    "of two dimensions": (lambda reply: nonsense(reply, head=told(reply, "head")[None]), "this is no mask of head"),
    "too many bits": (
        lambda reply: nonsense(reply, head=torch.full((999,), 255, dtype=torch.uint8)),
        "this is no mask",
    ),
    "all of them": (lambda reply: nonsense(reply, head=torch.full((720,), 255, dtype=torch.uint8)), "head keeps 5760"),
    "a billion": (a_billion, "it moved a number in head.weight by 1e+09, where update_limit=1000 allows 1"),
}
FEW = (*SMALL, *EVERY, "strategy.density=0.02", "rounds=1", "min_fraction_success=0.5")
"""So few weights that masks travel as places"""


def watched(
    settings: Settings, run_dir: Path, change: Callable[[Message], None] | None = None
) -> tuple[Result, Watched]:
    prepared = prepare(settings)
    grid = Watched(prepared)
    grid.change = grid.change if change is None else change
    return run(prepared, run_dir, Reporter(), grid), grid


@pytest.fixture(scope="module")
def without_client_2(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model of a run in which its reply was lost."""
    folder = tmp_path_factory.mktemp("without")

    def lose(reply: Message) -> None:
        reply.content[ARRAYS] = ArrayRecord()  # refused whatever else there is

    watched(small_settings(*FEW), folder, lose)
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("harm", HARMS)
def test_nonsense_is_named_and_never_averaged(without_client_2: bytes, tmp_path: Path, harm: str) -> None:
    change, words = HARMS[harm]
    result, _ = watched(small_settings(*FEW), tmp_path / "run", change)
    faults = result.clients[result.clients["fault"].notna()]
    assert faults["client"].tolist() == [2]
    assert words in faults["fault"].item()

    assert (tmp_path / "run" / "model.safetensors").read_bytes() == without_client_2


def test_masks_that_nobody_asked_for_are_refused(small_settings: MakeSettings, tmp_path: Path) -> None:
    def add(reply: Message) -> None:
        reply.content[MASKS] = to_record({"head": torch.zeros(1, dtype=torch.int32)})

    settings = small_settings(*SMALL, "rounds=1", "min_fraction_success=0.5")
    result, _ = watched(settings, tmp_path / "run", add)
    assert result.clients["fault"].dropna().tolist() == ["it sent a record called 'masks', which nobody asked for"]


def test_the_limit_holds_wherever_a_number_came_from(small_settings: MakeSettings) -> None:
    """Sent are -2 and 3, of which nobody knows the places; a tenth of the largest is allowed."""
    prepared = prepare(small_settings(*SMALL))
    Watched(prepared)  # sets the sender
    vetting = Vetting(prepared.federation, {"head.weight": torch.zeros(2, 2)}, update_limit=0.1)
    config = ConfigRecord({ROUND: 1, f"{REPLACE}head": 1})
    sent = to_record({"head.weight": torch.tensor([-2.0, 3.0])})
    message = Message(RecordDict({CONFIG: config, ARRAYS: sent}), 0, TRAIN)

    def fault(*weights: float) -> str | None:
        content = RecordDict(
            {
                METRICS: MetricRecord({"num-examples": 40, "loss": 0.5}),
                CONFIG: ConfigRecord({ROUND: 1}),
                ARRAYS: to_record({"head.weight": torch.tensor(weights)}),
                MASKS: to_record({"head": torch.tensor([0b01100000], dtype=torch.uint8)}),
            }
        )
        vetted = vetting.vetted(message, Message(content, reply_to=message))
        return None if vetted.has_content() else vetted.error.reason

    assert fault(3.2, 0.0) is None  # the one that is left has moved by 0.2
    assert fault(0.1, -3.25) is None  # it may have come from anywhere
    assert "moved a number in head.weight by 0.5, where update_limit=0.1 allows 0.3" in str(fault(0.0, 3.5))
    assert "not finite" in str(fault(0.0, float("nan")))


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_where_weights_are_replaced_they_travel_as_they_are(
    small_settings: MakeSettings, tmp_path: Path, form: str
) -> None:
    words = (*SMALL, *EVERY, "rounds=1")
    plain, _ = watched(small_settings(*words), tmp_path / "plain")
    packed, grid = watched(small_settings(*words, f"compression={form}"), tmp_path / form)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", form)]
    layers = [name.removeprefix(REPLACE) for name in config_of(grid.trained()[0][0]) if name.startswith(REPLACE)]
    assert len(layers) == 3
    for layer in layers:
        assert torch.equal(*(model[f"{layer}.weight"] for model in models))
    assert not torch.equal(*(model["features.0.weight"] for model in models))
    assert packed.summary["bytes_up"] < plain.summary["bytes_up"]
    states = grid.client_states()
    if form == "int8":  # an error that is still to be sent would be of other places
        assert not any(f"{layer}.weight" in state[RESIDUAL] for state in states.values() for layer in layers)


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_compression_goes_on_after_an_adjustment(small_settings: MakeSettings, tmp_path: Path, form: str) -> None:
    words = (*SMALL, "strategy.interval=2", "strategy.stop_round=4", "rounds=4")
    watched(small_settings(*words), tmp_path / "plain")
    _, grid = watched(small_settings(*words, f"compression={form}"), tmp_path / form)
    narrow = {"fp16": "float16", "int8": "int8"}[form]
    assert grid.forms[::6] == [narrow, "float32", narrow, narrow]  # in the second round weights are replaced
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", form)]
    first, second = (model["features.0.weight"] for model in models)
    assert 0 < (first - second).norm() / first.norm() < 0.05


def test_a_diagnosis_leaves_out_updates_that_are_not_alike(small_settings: MakeSettings, tmp_path: Path) -> None:
    settings = small_settings(
        *SMALL, "strategy.interval=2", "strategy.stop_round=4", "rounds=3", "diagnostics=true", "diagnostics_every=1"
    )
    result, _ = watched(settings, tmp_path / "run")
    assert result.diagnostics is not None
    told = result.diagnostics.groupby("round")["metric"].agg(set)
    assert {round for round in told.index if "update_cosine" in told[round]} == {1, 3}
    assert 2 in told.index


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("strategy.interval=0",), r"^strategy\.interval=0 is not possible: choose a whole number of at least 1"),
        (("strategy.stop_round=0",), r"^strategy\.stop_round=0 is not possible: choose a whole number of at least 1"),
        (("strategy.rate=2",), r"^strategy\.rate=2 is not possible: choose a number above 0 and at most 1"),
        (("strategy.adjust_after=2",), r"^strategy\.adjust_after=2 is not possible: choose a number from 0 to 1\.$"),
        (("strategy.adjust_after=x",), r"^strategy\.adjust_after=x is not possible: choose a number\.$"),
        (("strategy.distribution=er",), r"^strategy\.distribution=er is not known: choose uniform or erk"),
        (
            ("strategy.blocks=2",),
            r"^strategy\.blocks=2 is not a setting|^strategy\.blocks=2 is not an option of feddst",
        ),
        (
            ("aggregation=median",),
            r"^strategy=feddst has clients send other weights .* choose aggregation=mean and priv",
        ),
        (
            ("privacy=server_fixed_clipping",),
            r"^strategy=feddst has clients .* choose aggregation=mean and privacy=none",
        ),
        (
            ("strategy.density=null", "budget.flops=3e8", "budget.classes={a:{clients:[0],flops:2.2e8}}"),
            r"^strategy=feddst has every device replace weights of the same network, and budget\.classes gives",
        ),
    ],
)
def test_what_cannot_work_is_refused(small_settings: MakeSettings, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(small_settings("strategy=feddst", *words))


def test_a_budget_for_all_devices_chooses_the_density(small_settings: MakeSettings) -> None:
    prepared = prepare(small_settings("strategy=feddst", "strategy.density=null", "budget.flops=2.5e8"))
    assert 0 < dst(prepared).density == prepared.densities[""] < 1
