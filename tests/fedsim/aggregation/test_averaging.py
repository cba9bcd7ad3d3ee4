"""The running average against numpy, its counters, and what it refuses."""

import numpy as np
import pytest
import torch

from fedsim.aggregation import RunningAverage

Tensors = dict[str, torch.Tensor]


def average(*parts: tuple[Tensors, float]) -> Tensors:
    running = RunningAverage()
    for tensors, weight in parts:
        running.add(tensors, weight)
    return running.result()


def random_tensor(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_average_is_numpys_in_the_type_of_the_tensors(dtype: torch.dtype) -> None:
    tensors, weights = [random_tensor(seed, dtype) for seed in range(7)], [3, 1, 4, 1.5, 9, 2.6, 5]
    result = average(*(({"w": tensor}, weight) for tensor, weight in zip(tensors, weights, strict=True)))
    expected = np.average([tensor.double().numpy() for tensor in tensors], axis=0, weights=weights)
    assert result["w"].dtype == dtype
    assert torch.equal(result["w"], torch.from_numpy(expected).to(dtype))


def test_equal_tensors_average_to_exactly_themselves() -> None:
    tensor = random_tensor(0) * 1e-20
    weights = (0.1, 0.2, 1e9, 1 / 3, 7e-9)
    assert torch.equal(average(*(({"w": tensor}, weight) for weight in weights))["w"], tensor)


def test_many_small_numbers_are_not_lost() -> None:
    tensor = torch.tensor([0.1], dtype=torch.float16)
    assert average(*(({"w": tensor}, 1.0) for _ in range(3000)))["w"].item() == tensor.item()


def test_the_magnitude_of_the_weights_does_not_matter() -> None:
    parts = [random_tensor(seed) for seed in range(3)]
    small = average(*(({"w": tensor}, 2.0**-60 * (k + 1)) for k, tensor in enumerate(parts)))
    large = average(*(({"w": tensor}, 2.0**60 * (k + 1)) for k, tensor in enumerate(parts)))
    assert torch.equal(small["w"], large["w"])


def test_counters_take_the_maximum_whatever_the_weights() -> None:
    counters = [torch.tensor(5), torch.tensor(2**60 + 1), torch.tensor(7)]
    result = average(*(({"n": counter}, weight) for counter, weight in zip(counters, (1e9, 1e-9, 1.0), strict=True)))
    assert result["n"].dtype == torch.int64
    assert result["n"].item() == 2**60 + 1
    assert counters[0].item() == 5


def test_a_weight_of_zero_leaves_a_client_out() -> None:
    result = average(({"w": random_tensor(0)}, 0.0), ({"w": random_tensor(1)}, 2.0))
    assert torch.equal(result["w"], random_tensor(1))


def test_entries_keep_the_order_of_the_first_reply() -> None:
    first, second = {"b": random_tensor(0), "a": random_tensor(1)}, {"a": random_tensor(2), "b": random_tensor(3)}
    result = average((first, 1.0), (second, 1.0))
    assert list(result) == ["b", "a"]
    assert torch.equal(result["a"], ((first["a"].double() + second["a"].double()) / 2).float())


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
    ],
)
def test_the_tensors_of_the_clients_stay_as_they_were(dtype: torch.dtype) -> None:
    parts = [random_tensor(seed, dtype) for seed in range(2)]
    before = [tensor.clone() for tensor in parts]
    average(*(({"w": tensor}, 3.0) for tensor in parts))
    assert all(torch.equal(tensor, old) for tensor, old in zip(parts, before, strict=True))


@pytest.mark.parametrize("second", [{"w": torch.ones(2)}, {"w": torch.ones(2), "x": torch.ones(2), "y": torch.ones(2)}])
def test_replies_with_other_names_are_refused(second: Tensors) -> None:
    running = RunningAverage()
    running.add({"w": torch.ones(2), "x": torch.ones(2)}, 1.0)
    odd = sorted({"w", "x"} ^ second.keys())
    with pytest.raises(ValueError, match=rf"the entries \['{odd[0]}'\] are not in every reply"):
        running.add(second, 1.0)


def test_a_reply_with_entries_after_an_empty_one_is_refused() -> None:
    running = RunningAverage()
    running.add({}, 1.0)
    with pytest.raises(ValueError, match="not in every reply"):
        running.add({"w": torch.ones(2)}, 1.0)


def test_replies_with_other_shapes_are_refused() -> None:
    running = RunningAverage()
    running.add({"w": torch.ones(2, 3)}, 1.0)
    with pytest.raises(ValueError, match=r"w has the shape \(3,\), others \(2, 3\)"):  # it would broadcast
        running.add({"w": torch.ones(3)}, 1.0)


@pytest.mark.parametrize("parts", [[], [({"w": torch.ones(2)}, 0.0)]])
def test_weights_that_add_up_to_zero_are_refused(parts: list[tuple[Tensors, float]]) -> None:
    with pytest.raises(ValueError, match="the weights add up to zero"):
        average(*parts)
