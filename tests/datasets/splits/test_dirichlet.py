"""``dirichlet`` against a plain loop that is fed the same draws."""

import math

import numpy as np
import pytest

from datasets.splits import dirichlet
from datasets.splits.dirichlet import Dirichlet
from datasets.splits.steps import even
from fedsim.core.errors import UserError

UNEVEN = np.array([0.4, 0.3, 0.2, 0.1])
ALPHAS = [1e-3, 0.1, 1.0, 100.0]


def class_sizes(kind: str) -> list[int]:
    return {"equal": [60] * 4, "tail": [200, 90, 41, 18, 8, 3]}[kind]


def table(step: Dirichlet, held: list[int], weights: np.ndarray, seed: int) -> list[list[int]]:
    """Images of each class and client."""
    labels = np.repeat(np.arange(len(held)), held)
    owner = step.divide(labels, weights, np.random.default_rng(seed))
    return [[int(((labels == c) & (owner == k)).sum()) for k in range(len(weights))] for c in range(len(held))]


def by_loop(held: list[int], weights: np.ndarray, seed: int, alpha: float, *, balance: bool) -> list[list[int]]:
    """NIID-Bench's loop over classes and clients, with client weights, and cuts that are shifted by one draw."""
    rng = np.random.default_rng(seed)
    has, rows = [0] * len(weights), []
    for images in held:
        draw = rng.dirichlet([alpha] * len(weights)).tolist()
        full = [balance and has[k] >= weights[k] * sum(held) for k in range(len(weights))]
        shares = [0.0 if full[k] else draw[k] * weights[k] for k in range(len(weights))]
        if sum(shares) == 0:
            shares = [0.0 if full[k] else weights[k] for k in range(len(weights))]
        shift, before, cut, row = rng.random(), 0.0, 0, []
        for k in range(len(weights)):
            before += shares[k] / sum(shares)
            until = images if k == len(weights) - 1 else math.floor(before * images + shift)
            row.append(until - cut)
            cut = until
        has = [mine + more for mine, more in zip(has, row, strict=True)]
        rows.append(row)
    return rows


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("weights", [even(4), UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("kind", ["equal", "tail"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_cuts_are_those_of_a_plain_loop(alpha: float, kind: str, weights: np.ndarray, balance: bool) -> None:
    held = class_sizes(kind)
    for seed in range(20):
        dealt = table(Dirichlet(alpha, min_size=0, balance=balance), held, weights, seed)
        assert dealt == by_loop(held, weights, seed, alpha, balance=balance), seed


def test_a_draw_that_leaves_nothing_is_replaced_by_the_weights() -> None:
    """Clients of weight zero may be the only ones that a tiny alpha gives anything."""
    weights = np.array([0.0, 0.0, 0.0, 0.75, 0.25])
    for seed in range(10):
        dealt = np.array(table(Dirichlet(1e-4, min_size=0), [80] * 6, weights, seed))
        assert not dealt[:, :3].any()
        assert dealt.sum() == 480


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("assign", ["cut", "sample"])
def test_clients_get_their_share_on_average(assign: str, balance: bool) -> None:
    """The shares that were drawn first are known, so the deviation of the first class from them can be standardized."""
    held, deviations, errors = 300, [], []
    for seed in range(400):
        shares = np.random.default_rng(seed).dirichlet([1.0] * 4)
        dealt = np.array(table(Dirichlet(1.0, min_size=0, assign=assign, balance=balance), [held], even(4), seed)[0])
        errors.append(dealt - held * shares)
        deviations.append(errors[-1] / np.sqrt(held * shares * (1 - shares)))
    # A cut is less than one image off; a sample is as far off as a multinomial draw.
    assert np.abs(np.mean(errors, axis=0)).max() < (0.1 if assign == "cut" else 4 * np.sqrt(held * 0.25 / 400))
    if assign == "cut":
        assert np.abs(errors).max() < 1
    else:
        assert np.mean(np.square(deviations)) == pytest.approx(1, abs=0.12)


def test_a_minimum_that_is_just_met_is_met() -> None:
    assert table(Dirichlet(1e12, min_size=10), [40], even(4), 0) == [[10, 10, 10, 10]]
    with pytest.raises(UserError, match=r"^split\.min_size=11 is not possible: 40 images are too few for 4 clients\.$"):
        table(Dirichlet(1e12, min_size=11), [40], even(4), 0)


def test_all_classes_are_drawn_again_until_the_minimum_is_met() -> None:
    """The table is that of the first attempt that meets it, also where earlier ones do not."""
    again = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        step = Dirichlet(0.5, min_size=12)
        attempt, number = step._draw(np.array([60] * 4), even(4), rng), 1
        while attempt.sum(axis=0).min() < 12:
            attempt, number = step._draw(np.array([60] * 4), even(4), rng), number + 1
        assert table(step, [60] * 4, even(4), seed) == attempt.tolist()
        again += number > 1
    assert again


def test_a_minimum_that_is_never_met_is_refused_with_what_to_change() -> None:
    with pytest.raises(UserError) as raised:
        table(Dirichlet(0.01, min_size=40), [60] * 4, even(5), 0)
    assert str(raised.value) == (
        "split.min_size=40 was not met in 200 draws of 240 images for 5 clients with split.alpha=0.01: "
        "choose a smaller min_size, a larger alpha or fewer clients."
    )


def test_large_draws_are_given_up_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dirichlet, "DRAWN", 70)  # of 4 classes and 5 clients: three times and a half
    with pytest.raises(UserError, match=r"^split\.min_size=40 was not met in 4 draws of 240 images for 5 clients"):
        table(Dirichlet(0.01, min_size=40), [60] * 4, even(5), 0)
