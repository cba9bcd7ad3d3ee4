"""Compressed updates: numbers by hand, bounds on the error, what error feedback repairs, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedsim.messages.arrays import count_bytes, to_record, to_tensors
from fedsim.messages.compression import FORMS, RESIDUAL, SCALES, compress, decompress, forget

Tensors = dict[str, torch.Tensor]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def kept(state: RecordDict) -> Tensors:
    record = state[RESIDUAL]
    assert isinstance(record, ArrayRecord)
    return to_tensors(record)


def there_and_back(form: str, sent: Tensors, trained: Tensors, state: RecordDict | None = None) -> Tensors:
    return decompress(form, sent, compress(form, sent, trained, RecordDict() if state is None else state))


def test_int8_by_hand() -> None:
    """Updates 2.54, -1, 0.03 and 0: the scale is 0.02, the codes are 127, -50, 1.5 to the even 2, and 0."""
    sent = {"w": torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)}
    trained = {"w": sent["w"] + torch.tensor([2.54, -1.0, 0.03, 0.0], dtype=torch.float64)}
    state = RecordDict()
    reply = compress("int8", sent, trained, state)
    assert list(reply) == ["w", SCALES]
    assert reply["w"].dtype == torch.int8
    assert reply["w"].tolist() == [127, -50, 2, 0]
    assert reply[SCALES].dtype == torch.float32
    assert reply[SCALES].tolist() == [np.float32(0.02)]
    assert decompress("int8", sent, reply)["w"].tolist() == pytest.approx([3.54, 1.0, 4.04, 8.0], abs=1e-6)
    assert kept(state)["w"].tolist() == pytest.approx([0.0, 0.0, -0.01, 0.0], abs=1e-6)


def test_the_error_is_sent_with_the_next_update() -> None:
    """0.75 and 127 leave -0.25; with it the same update is 0.5 and leaves 0.5; then 1.25 sends one and leaves 0.25."""
    sent, state = {"w": torch.zeros(2)}, RecordDict()
    codes, errors = [], []
    for _ in range(3):
        codes.append(compress("int8", sent, {"w": torch.tensor([127.0, 0.75])}, state)["w"].tolist())
        errors.append(kept(state)["w"].tolist())
    assert codes == [[127, 1], [127, 0], [127, 1]]  # 0.5 goes to the even 0
    assert errors == [[0, -0.25], [0, 0.5], [0, 0.25]]


def test_fp16_by_hand() -> None:
    """Above 1024 float16 holds whole numbers, above 2048 even ones; the update counts, not the weight."""
    sent = {"w": torch.tensor([1e6, 0.0, 0.0])}
    trained = {"w": torch.tensor([1e6 + 1, 1024.25, 2051.5])}
    state = RecordDict()
    reply = compress("fp16", sent, trained, state)
    assert reply["w"].dtype == torch.float16
    assert reply["w"].tolist() == [1, 1024, 2052]
    assert decompress("fp16", sent, reply)["w"].tolist() == [1e6 + 1, 1024, 2052]
    assert not state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_what_comes_back_is_in_the_type_of_what_was_sent(form: str, dtype: torch.dtype) -> None:
    sent, trained = {"w": random(50, dtype=dtype)}, {"w": random(50, seed=1, dtype=dtype)}
    back = there_and_back(form, sent, trained)["w"]
    assert back.dtype == dtype
    assert torch.allclose(back.double(), trained["w"].double(), atol=0.03)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
def test_an_error_is_half_a_step_at_most(size: float) -> None:
    sent, trained = {"w": torch.zeros(40, 25)}, {"w": size * random(40, 25)}
    update = trained["w"].double().numpy()
    step = np.abs(update).max() / 127
    error = np.abs(there_and_back("int8", sent, trained)["w"].double().numpy() - update)
    assert error.max() <= 0.5 * step * (1 + 1e-5)
    assert error.max() > 0.4 * step  # it is this step, not a finer one


def test_each_tensor_has_its_own_scale_whatever_the_order() -> None:
    sent = {name: torch.zeros(3) for name in ("b", "c", "a")}
    trained = {name: size * torch.tensor([1.0, -0.5, 0.0]) for name, size in (("b", 1.0), ("c", 1e-6), ("a", 1e6))}
    reply = compress("int8", sent, trained, RecordDict())
    assert reply[SCALES].tolist() == pytest.approx([1e6 / 127, 1 / 127, 1e-6 / 127])
    shuffled = {name: reply[name] for name in (SCALES, "a", "b", "c")}
    back = decompress("int8", sent, shuffled)
    assert list(back) == list(sent)
    for name, tensor in trained.items():
        assert torch.allclose(back[name], tensor, rtol=0.01, atol=0)


def test_error_feedback_keeps_the_sum_within_one_step() -> None:
    """One entry takes large steps to and fro, the others small ones in one direction, which rounding alone loses."""
    rounds, small = 200, torch.full((9,), 0.003)
    total, sums = torch.zeros(10).double(), {"with": torch.zeros(10), "without": torch.zeros(10)}
    state, steps = RecordDict(), []
    for round in range(rounds):
        update = torch.cat([torch.tensor([(-1.0) ** round]), small])
        total += update.double()
        for name, memory in (("with", state), ("without", RecordDict())):
            sent = {"w": sums[name]}
            reply = compress("int8", sent, {"w": sums[name] + update}, memory)
            sums[name] = decompress("int8", sent, reply)["w"]
            steps.append(reply[SCALES].item())
    assert (sums["with"] - total).abs().max() <= max(steps)
    assert sums["without"][1:].tolist() == [0.0] * 9  # 0.003 is less than half of 1/127
    assert (sums["without"] - total).abs().max() == pytest.approx(0.6, abs=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_integers_and_exact_entries_travel_as_they_are(form: str) -> None:
    sent = {"w": random(4), "bn.num_batches_tracked": torch.tensor(7), "bn.running_var": torch.tensor([1.0, 1.0])}
    trained = {
        "w": random(4, seed=1),
        "bn.num_batches_tracked": torch.tensor(2**62 + 1),
        "bn.running_var": torch.tensor([0.01, 191.5]),  # in steps of 1.5
    }
    state, exact = RecordDict(), {"bn.running_var"}
    reply = compress(form, sent, trained, state, exact)
    back = decompress(form, sent, reply, exact)
    assert list(back) == list(sent)
    for name in ("bn.num_batches_tracked", "bn.running_var"):
        assert torch.equal(reply[name], trained[name])
        assert torch.equal(back[name], trained[name])
        assert back[name].dtype == sent[name].dtype
    assert list(kept(state)) == ["w"] if form == "int8" else not state
    if form == "int8":  # why a variance is better not compressed
        assert there_and_back(form, sent, trained)["bn.running_var"].tolist() == [-0.5, 191.5]


@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_compress_is_no_matter(form: str) -> None:
    sent = {"empty": torch.zeros(0, 3), "still": torch.ones(5), "scalar": torch.tensor(2.0)}
    trained = {"empty": torch.zeros(0, 3), "still": torch.ones(5), "scalar": torch.tensor(-1.0)}
    back = there_and_back(form, sent, trained)
    for name, tensor in trained.items():
        assert back[name].shape == tensor.shape
        assert torch.allclose(back[name], tensor, atol=1e-6)
    counter = {"n": torch.tensor(3)}
    assert there_and_back(form, counter, {"n": torch.tensor(4)})["n"].item() == 4
    assert there_and_back(form, {}, {}) == {}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_finite_is_seen_by_the_server_and_does_not_stay(form: str, wrong: float) -> None:
    sent, state = {"w": torch.zeros(3), "other": torch.zeros(1)}, RecordDict()
    good = {"w": torch.tensor([127.0, 0.25, -0.25]), "other": torch.ones(1)}
    there_and_back(form, sent, good, state)
    back = there_and_back(form, sent, {"w": torch.tensor([1.0, wrong, 2.0]), "other": torch.ones(1)}, state)
    assert not back["w"].isfinite().all()
    assert back["other"].tolist() == [1]
    if form == "int8":
        assert kept(state)["w"].tolist() == [0, 0.25, -0.25]  # what was owed before still is
        back = there_and_back(form, sent, good, state)  # 0.25 + 0.25 goes to the even 0
        assert back["w"].tolist() == [127, 0, 0]
        assert kept(state)["w"].tolist() == [0, 0.5, -0.5]
    else:
        assert there_and_back(form, sent, good, state)["w"].tolist() == good["w"].tolist()


def test_what_float16_cannot_hold_is_seen() -> None:
    assert there_and_back("fp16", {"w": torch.zeros(1)}, {"w": torch.tensor([7e4])})["w"].item() == float("inf")


def test_an_error_of_another_shape_is_dropped_and_one_of_entries_that_are_gone_too() -> None:
    state = RecordDict()
    compress(
        "int8", {"w": torch.zeros(2), "v": torch.zeros(2)}, {name: torch.tensor([127, 0.4]) for name in "wv"}, state
    )
    assert kept(state)["w"].tolist() == pytest.approx([0, 0.4])
    reply = compress("int8", {"w": torch.zeros(3)}, {"w": torch.tensor([127.0, 0.4, 0.2])}, state)
    assert reply["w"].tolist() == [127, 0, 0]
    assert list(kept(state)) == ["w"]
    assert kept(state)["w"].tolist() == pytest.approx([0, 0.4, 0.2])


def test_errors_are_forgotten_on_demand() -> None:
    state = RecordDict()
    forget(state)
    compress("int8", {"w": torch.zeros(2)}, {"w": torch.tensor([127, 0.4])}, state)
    forget(state)
    assert not state


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use")
@pytest.mark.parametrize("form", FORMS)
def test_a_client_on_a_gpu_sends_the_same_to_a_server_on_the_cpu(form: str) -> None:
    sent, state, near = {"w": random(9)}, RecordDict(), RecordDict()
    for seed in (1, 2):
        trained = {"w": random(9, seed=seed)}
        expected = there_and_back(form, sent, trained, near)["w"]
        reply = compress(form, sent, {"w": trained["w"].cuda()}, state)
        back = decompress(form, sent, reply)["w"]
        assert reply["w"].is_cuda
        assert not back.is_cuda
        assert torch.allclose(back, expected, rtol=0, atol=1e-6)


def test_nothing_that_is_handed_in_changes() -> None:
    sent, trained = {"w": random(6)}, {"w": random(6, seed=1)}
    before = sent["w"].clone(), trained["w"].clone()
    state = RecordDict()
    for _ in range(2):
        reply = compress("int8", sent, trained, state)
        codes = reply["w"].clone()
        back = decompress("int8", sent, reply)
        back["w"].zero_()
        assert torch.equal(reply["w"], codes)
    assert torch.equal(sent["w"], before[0])
    assert torch.equal(trained["w"], before[1])


def test_the_bytes_are_a_half_and_about_a_quarter() -> None:
    sent = {"conv": random(32, 16, 3, 3), "bias": random(32), "n": torch.tensor(1)}
    trained = {"conv": random(32, 16, 3, 3, seed=1), "bias": random(32, seed=2), "n": torch.tensor(2)}
    numbers = 32 * 16 * 9 + 32
    counted = {form: count_bytes(to_record(compress(form, sent, trained, RecordDict()))) for form in FORMS}
    assert count_bytes(to_record(trained)) == 4 * numbers + 8
    assert counted == {"fp16": 2 * numbers + 8, "int8": numbers + 8 + 2 * 4}


@pytest.mark.parametrize("form", FORMS)
def test_it_survives_flowers_wire_and_a_state_that_travelled(form: str) -> None:
    def travelled(content: RecordDict) -> RecordDict:
        objects = {name: each.deflate() for name, each in get_all_nested_objects(content).items()}
        back = inflate_object_from_contents(content.object_id, objects)
        assert isinstance(back, RecordDict)
        return back

    sent, trained = (
        {"w": random(5, 7), "bias": torch.tensor(0.5)},
        {"w": random(5, 7, seed=1), "bias": torch.tensor(1.0)},
    )
    near, far = RecordDict(), RecordDict()
    for _ in range(3):
        reply = compress(form, sent, trained, near)
        content = travelled(RecordDict({"arrays": to_record(compress(form, sent, trained, far))}))
        far = travelled(far)
        assert count_bytes(content.array_records["arrays"]) == count_bytes(to_record(reply))
        received = to_tensors(content.array_records["arrays"])
        there, here = (decompress(form, sent, each) for each in (received, reply))
        for name in sent:
            assert torch.equal(there[name], here[name])


Change = Callable[[Tensors], Tensors]


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        ("int8", lambda reply: {"w": reply["w"]}, "/scales"),
        ("int8", lambda reply: reply | {SCALES: torch.ones(2)}, r"/scales came as float32 \(2,\).* float32 \(1,\)"),
        ("int8", lambda reply: reply | {SCALES: torch.ones(1).double()}, r"/scales came as float64"),
        ("int8", lambda reply: {SCALES: reply[SCALES]}, "'w'"),
        ("int8", lambda reply: reply | {"w": reply["w"][:2]}, r"w came as int8 \(2,\).* int8 \(3,\)"),
        ("int8", lambda reply: reply | {"w": reply["w"].float()}, "w came as float32 .* int8"),
        ("fp16", lambda reply: reply | {"w": reply["w"].float()}, "compression=fp16 it has to be float16"),
        ("fp16", lambda reply: reply | {"w": reply["w"].view(3, 1)}, r"\(3, 1\)"),
        ("fp16", lambda reply: reply | {SCALES: torch.ones(1)}, "/scales"),
    ],
)
def test_a_reply_that_is_not_what_it_should_be_is_refused(form: str, change: Change, words: str) -> None:
    sent = {"w": torch.zeros(3)}
    reply = compress(form, sent, {"w": torch.ones(3)}, RecordDict())
    with pytest.raises(ValueError, match=words):
        decompress(form, sent, change(reply))


@pytest.mark.parametrize("trained", [{"w": torch.ones(3)}, {"v": torch.ones(1)}, {}])
def test_trained_entries_are_those_that_were_sent(trained: Tensors) -> None:
    with pytest.raises(ValueError, match="differ in names or shapes"):
        compress("fp16", {"w": torch.ones(1)}, trained, RecordDict())


def test_a_form_that_is_not_known_is_refused() -> None:
    for function in (lambda: compress("int4", {}, {}, RecordDict()), lambda: decompress("int4", {}, {})):
        with pytest.raises(ValueError, match="compression=int4 is not known: choose fp16 or int8, or null"):
            function()
