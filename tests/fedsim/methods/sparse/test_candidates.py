"""Counts of kept weights: their sums, their bounds, ERK by hand, and FedTiny's draws made again with NumPy."""

import math
import re

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from fedsim.core.errors import UserError
from fedsim.methods.sparse.candidates import Shapes, candidate_pool, erk, nested, noise, uniform
from fedsim.methods.sparse.masks import prunable_layers
from fedsim.models import CNNSmall

SHAPES: Shapes = {
    name: layer.weight.shape for name, layer in prunable_layers(CNNSmall(image_shape=(3, 32, 32))).items()
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=4), min_size=1, max_size=8),
    st.floats(0.001, 1),
    st.integers(0, 1000),
)
def test_every_scheme_keeps_what_the_density_says_and_no_layer_less_than_one_or_more_than_all(
    sizes: list[list[int]], density: float, seed: int
) -> None:
    shapes = {str(number): torch.Size(size) for number, size in enumerate(sizes)}
    weights = [math.prod(size) for size in sizes]
    assume(round(density * sum(weights)) >= len(weights))
    for counts in (uniform(shapes, density), erk(shapes, density), noise(shapes, density, seeded(seed))):
        assert list(counts) == list(shapes)
        assert sum(counts.values()) == round(density * sum(weights))
        assert all(1 <= count <= most for count, most in zip(counts.values(), weights, strict=True))


def test_uniform_gives_what_is_left_to_the_largest_remainders_and_of_equal_ones_to_the_first() -> None:
    shapes = {"a": torch.Size((3, 5)), "b": torch.Size((3, 5)), "c": torch.Size((2, 9)), "d": torch.Size((4, 3))}
    # 10 % of 60 are 6: 1.5, 1.5, 1.8 and 1.2, of which the floors sum to 4
    assert uniform(shapes, 0.1) == {"a": 2, "b": 1, "c": 2, "d": 1}


def test_a_layer_whose_share_is_less_than_one_weight_keeps_one() -> None:
    shapes = {"large": torch.Size((100, 100)), "small": torch.Size((2, 5)), "tiny": torch.Size((1, 2))}
    # 1 % of 10012 are 100, of which the others take one each although 0.1 and 0.02 were their shares
    assert uniform(shapes, 0.01) == {"large": 98, "small": 1, "tiny": 1}


def test_erk_by_hand() -> None:
    shapes = {"conv": torch.Size((16, 8, 3, 3)), "small": torch.Size((4, 2, 3, 3)), "head": torch.Size((10, 20))}
    # 1152 + 72 + 200 = 1424 weights, 20 % are 285 (284.8). The sums of their sizes, 30, 12 and 30, are to share these:
    # 285 / 72 = 3.958 gives 118.75, 47.5 and 118.75.
    assert erk(shapes, 0.2) == {"conv": 119, "small": 47, "head": 119}
    # 60 % are 854: 854 / 72 = 11.86 would give 355.8, 142.3 of 72 and 355.8 of 200. Both of these are dense, and the
    # convolution has what is left.
    assert erk(shapes, 0.6) == {"conv": 854 - 72 - 200, "small": 72, "head": 200}
    # 33 % are 470: 470 / 72 = 6.528 would give 195.8, 78.3 of 72 and 195.8. The small layer is dense, and of the other
    # 398 each has 199. 34 % are 484: 201.7, 80.7 and 201.7, so that the head is dense at once.
    assert erk(shapes, 0.33) == {"conv": 199, "small": 72, "head": 199}
    assert erk(shapes, 0.34) == {"conv": 484 - 72 - 200, "small": 72, "head": 200}


def test_erk_makes_a_layer_dense_that_exceeds_1_only_after_another_was_made_so() -> None:
    shapes = {"conv": torch.Size((16, 8, 3, 3)), "small": torch.Size((4, 2, 3, 3)), "head": torch.Size((10, 20))}
    density = 475 / 1424  # 475 / 72 = 6.597: 197.9 of 200 at first, but 403 / 60 = 6.717: 201.5 then
    assert erk(shapes, density) == {"conv": 475 - 72 - 200, "small": 72, "head": 200}


def test_layers_that_keep_one_weight_at_least_may_leave_another_less_than_it_has() -> None:
    shapes = {"a": torch.Size((2, 1, 1, 1)), "c": torch.Size((10, 10))} | {
        f"b{i}": torch.Size((1, 1)) for i in range(20)
    }
    # 27 of 122 weights, shares 5, 20 and 20 times 2: 27 / 65 = 0.415 would give 2.08 of 2, 8.3 and 0.83 each. Once
    # these twenty have one each, 7 are left for the shares of 25, which is 1.4 and 5.6.
    assert erk(shapes, 27 / 122) == {"a": 1, "c": 6} | {f"b{i}": 1 for i in range(20)}


def test_a_draw_is_the_first_that_is_within_2_percent_of_the_target() -> None:
    """Made again from the same uniform numbers, one draw after another."""
    sizes = np.array([shape.numel() for shape in SHAPES.values()])
    density, tries = 0.05, 0
    for seed in range(5):
        generator = seeded(seed)
        while True:
            tries += 1
            densities = density * (0.5 + torch.rand(len(sizes), generator=generator, dtype=torch.float64).numpy())
            overall = float((densities * sizes).sum() / sizes.sum())
            if 0.98 * density <= overall <= 1.02 * density:
                break
        counts = np.array(list(noise(SHAPES, density, seeded(seed)).values()))
        # Only the missing 2 % at most and the rounding stand between the draw and the counts.
        assert counts == pytest.approx(densities * sizes * density / overall, abs=1)
    assert tries > 5


def test_a_pool_begins_with_uniform_and_goes_on_with_draws_that_differ_and_come_again() -> None:
    pool = candidate_pool(SHAPES, 0.02, 5, seeded(3))
    assert len(pool) == 5
    assert pool[0] == uniform(SHAPES, 0.02)
    assert len({tuple(counts.values()) for counts in pool}) == 5
    assert pool == candidate_pool(SHAPES, 0.02, 5, seeded(3))
    assert pool[1:] != candidate_pool(SHAPES, 0.02, 5, seeded(4))[1:]
    assert candidate_pool(SHAPES, 0.02, 1, seeded(3)) == pool[:1]


def test_one_candidate_draws_nothing() -> None:
    generator = seeded()
    before = generator.get_state()
    candidate_pool(SHAPES, 0.02, 1, generator)
    assert torch.equal(before, generator.get_state())


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, 1e-6, math.nan])
def test_densities_that_are_not_possible_are_refused(density: float) -> None:
    schemes = (uniform, erk, lambda shapes, density: noise(shapes, density, seeded()))
    for scheme in schemes:
        with pytest.raises(UserError, match=re.escape(f"strategy.density={density} is not possible: choose")):
            scheme(SHAPES, density)


def test_a_pool_without_candidates_is_refused() -> None:
    with pytest.raises(UserError, match=r"strategy.candidates=0 is not possible"):
        candidate_pool(SHAPES, 0.1, 0, seeded())


def test_all_weights_are_a_density_too() -> None:
    for counts in candidate_pool(SHAPES, 1.0, 2, seeded()):
        assert counts == {layer: shape.numel() for layer, shape in SHAPES.items()}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=8),
    st.floats(0.001, 1),
)
def test_a_nested_part_keeps_what_its_density_says_out_of_each_layer(
    layers: list[tuple[int, float]], density: float
) -> None:
    shapes = {str(number): torch.Size((size, 1)) for number, (size, _) in enumerate(layers)}
    whole = {str(number): max(1, round(share * size)) for number, (size, share) in enumerate(layers)}
    weights = sum(size for size, _ in layers)
    assume(round(density * weights) >= len(layers))
    part = nested(whole, shapes, density)
    assert list(part) == list(whole)
    assert sum(part.values()) == min(round(density * weights), sum(whole.values()))
    assert all(1 <= part[layer] <= whole[layer] for layer in whole)


def test_a_nested_part_has_the_proportions_of_the_whole() -> None:
    shapes = {"a": torch.Size((10, 10)), "b": torch.Size((10, 10)), "c": torch.Size((10, 20))}
    # 10 % of 400 weights are 40, of 20 + 40 + 60 a third: 6.67, 13.33 and 20
    assert nested({"a": 20, "b": 40, "c": 60}, shapes, 0.1) == {"a": 7, "b": 13, "c": 20}
    assert nested({"a": 20, "b": 40, "c": 60}, shapes, 0.5) == {"a": 20, "b": 40, "c": 60}
    with pytest.raises(UserError, match=r"^strategy\.density=0\.001 is not possible"):
        nested({"a": 20, "b": 40, "c": 60}, shapes, 0.001)
