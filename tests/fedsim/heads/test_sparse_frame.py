"""SSE-C: lengths, zeros and angles of the frame, and its descent against one written out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.heads import SparseFrame, simplex_frame, sparse_frame


def angles(rows: torch.Tensor) -> torch.Tensor:
    """Of each two rows, in degrees."""
    unit = F.normalize(rows.double())
    return (unit @ unit.T)[~torch.eye(len(rows), dtype=torch.bool)].acos().rad2deg()


@pytest.fixture(scope="module")
def frame() -> torch.Tensor:
    torch.manual_seed(0)
    return sparse_frame(10, 64, sparsity=0.6, norm=0.1, steps=10_000)


@pytest.mark.nightly
def test_its_rows_have_the_length_and_the_zeros_that_were_asked_for(frame: torch.Tensor) -> None:
    assert (frame == 0).sum() == int(0.6 * 640)
    assert frame.norm(dim=1) == pytest.approx(torch.full((10,), 0.1), rel=0.01)


@pytest.mark.nightly
def test_its_angles_are_nearly_equal_and_wider_than_a_random_sparse_matrix_has(frame: torch.Tensor) -> None:
    random = torch.randn(10, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * (frame != 0)
    ideal = math.degrees(math.acos(-1 / 9))
    assert angles(frame).std() < 0.1 < 5 < angles(random).std()
    assert angles(frame).min() > ideal - 0.2 > angles(random).min() + 10
    torch.manual_seed(0)
    thinned = simplex_frame(10, 64) * (frame != 0)  # what it started from
    assert angles(thinned).std() > 20 * angles(frame).std()


def test_a_few_steps_are_those_of_adam_on_norms_and_nearest_angles() -> None:
    """Adam and the gradient by hand, in plain numbers: C = 3 rows of d = 4."""
    torch.manual_seed(5)
    result = sparse_frame(3, 4, sparsity=0.25, norm=0.1, steps=3)
    torch.manual_seed(5)
    weight = simplex_frame(3, 4).contiguous()
    weight.view(-1)[torch.randperm(12)[:3]] = 0
    mask = weight != 0
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 4):
        gradient = torch.zeros_like(weight)
        lengths = [math.sqrt(sum(x * x for x in row)) for row in weight.tolist()]
        cosines = [
            [float(weight[i] @ weight[j]) / (lengths[i] * lengths[j]) if i != j else -1.0 for j in range(3)]
            for i in range(3)
        ]
        for i in range(3):
            gradient[i] += 2 * (lengths[i] - 0.1) * weight[i] / lengths[i]
            j = max(range(3), key=lambda other, i=i: cosines[i][other])  # type: ignore[misc]
            slope = 1 / 3 / math.sqrt(1 - cosines[i][j] ** 2)  # of -arccos / C
            for one, other in ((i, j), (j, i)):
                direction = weight[other] / lengths[other] - cosines[i][j] * weight[one] / lengths[one]
                gradient[one] += slope * direction / lengths[one]
        gradient *= mask
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = (second / (1 - 0.999**step)).sqrt() + 1e-8
        weight = weight - 1e-4 * (first / (1 - 0.9**step)) / corrected * mask
    torch.testing.assert_close(result, weight, rtol=1e-9, atol=1e-12)


def test_without_zeros_and_steps_it_is_the_simplex_frame() -> None:
    torch.manual_seed(1)
    frame = sparse_frame(5, 7, sparsity=0, norm=1.0, steps=0)
    torch.manual_seed(1)
    assert torch.equal(frame, simplex_frame(5, 7))


def test_the_authors_orientation_sets_class_0_apart() -> None:
    def towards_ones(orientation: str) -> torch.Tensor:
        torch.manual_seed(0)
        frame = sparse_frame(10, 64, 0, 1.0, 0, orientation)
        off = torch.full((10, 10), -1 / 9, dtype=torch.float64).fill_diagonal_(1.0)
        torch.testing.assert_close(frame @ frame.T, off)
        return frame.sum(1) / 8

    assert towards_ones("code")[0] < -0.7
    assert towards_ones("code")[1:].abs().max() < 0.4
    assert towards_ones("uniform").abs().max() < 0.4


def test_the_layer_is_not_a_number_until_it_is_made_and_is_never_trained() -> None:
    layer = SparseFrame(16, 4, steps=10)
    assert not layer.made
    assert layer(torch.ones(2, 16)).isnan().all()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layer.make()
        torch.manual_seed(2)
        expected = sparse_frame(4, 16, 0.6, 0.1, 10)
    assert layer.made
    assert torch.equal(layer.weight, expected.float())
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_the_bias_is_zero_or_the_random_one_of_the_authors_code() -> None:
    assert not SparseFrame(64, 10, bias="zero").bias.any()
    random = SparseFrame(64, 10, bias="random").bias
    assert 0 < random.abs().max() <= 1 / 8
    assert not random.requires_grad


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sparsity": 1.0}, r"^head\.sparsity=1\.0 is not possible: choose a number from 0 to below 1\.$"),
        ({"sparsity": -0.1}, r"^head\.sparsity=-0\.1 is not possible"),
        ({"norm": 0.0}, r"^head\.norm=0\.0 is not possible: choose a number above 0\.$"),
        ({"norm": math.inf}, r"^head\.norm=inf is not possible"),
        ({"steps": -1}, r"^head\.steps=-1 is not possible: choose a whole number of at least 0\.$"),
        ({"orientation": "x"}, r"^head\.orientation=x is not known: choose uniform or code\.$"),
        ({"bias": "none"}, r"^head\.bias=none is not known: choose zero or random\.$"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SparseFrame(16, 4, **options)  # type: ignore[arg-type]


def test_a_frame_whose_rows_would_vanish_or_do_not_fit_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"^head\.sparsity=0\.99 leaves a class nothing but zeros with 10 features"):
        sparse_frame(10, 10, 0.99, 0.1, 1)
    with pytest.raises(UserError, match="is not possible for 10 classes and 8 features"):
        sparse_frame(10, 8, 0.5, 0.1, 1)
