"""Augmentations of whole batches against torchvision's, image by image."""

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from datasets.examples import Examples
from datasets.transforms import Cutout, HorizontalFlip, RandomCrop, Rotation, Transform
from fedsim.core.errors import UserError

IMAGES = torch.randint(256, (64, 3, 12, 20), generator=torch.Generator().manual_seed(0)).float()


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_normalization_is_that_of_float64() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    pixels = IMAGES.byte()
    expected = (pixels.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).double().view(
        3, 1, 1
    )
    output = Transform(mean, std)(pixels, None)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    one = Transform((0.5,), (0.5,))(pixels, None)
    assert torch.equal(one, pixels.float().div(127.5).sub(1))


def test_flips_are_torchvisions_for_about_half_of_the_images() -> None:
    output = HorizontalFlip()(IMAGES, generator())
    flipped = torch.rand(64, generator=generator()) < 0.5
    for image, result, flip in zip(IMAGES, output, flipped, strict=True):
        assert torch.equal(result, TF.hflip(image) if flip else image)
    assert 20 < flipped.sum() < 44


def test_crops_are_torchvisions_padded_crops() -> None:
    output = RandomCrop(3)(IMAGES, generator())
    shifts = torch.randint(7, (64, 2), generator=generator())
    for image, result, (top, left) in zip(IMAGES, output, shifts.tolist(), strict=True):
        assert torch.equal(result, TF.crop(TF.pad(image, [3, 3, 3, 3]), top, left, 12, 20))
    assert set(shifts.flatten().tolist()) == set(range(7))


@pytest.mark.parametrize("size", [(12, 20), (15, 15), (20, 12)])
def test_turns_are_torchvisions_nearest(size: tuple[int, int]) -> None:
    images = torch.randint(1, 256, (20, 3, *size), generator=generator(0)).float()
    output = Rotation(30)(images, generator())
    angles = (2 * torch.rand(20, generator=generator()) - 1) * 30
    assert angles.min() < -15
    assert angles.max() > 15
    agree = []
    for image, result, angle in zip(images, output, angles.tolist(), strict=True):
        expected = TF.rotate(image, angle, InterpolationMode.NEAREST)
        agree.append((result == expected).double().mean().item())
    # Pixels whose source lies on the border of two may be rounded to either.
    assert min(agree) > 0.97
    opposite = [
        (o == TF.rotate(i, -a)).double().mean().item() for i, o, a in zip(images, output, angles.tolist(), strict=True)
    ]
    assert np.mean(opposite) < 0.7


@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_cutout_zeroes_a_square_that_the_border_cuts_off(size: int) -> None:
    """By slices, as in the authors' code; every centre is there, those of which three quarters are outside included."""
    images = torch.randint(1, 256, (800, 2, 5, 7), generator=generator(0)).float()
    output, draws = Cutout(size)(images, generator()), generator()
    rows, columns = (torch.randint(length, (800, 1), generator=draws)[:, 0].tolist() for length in (5, 7))
    for image, result, row, column in zip(images, output, rows, columns, strict=True):
        expected, top, left = image.clone(), row - size // 2, column - size // 2
        expected[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0
        assert torch.equal(result, expected)
    assert len(set(zip(rows, columns, strict=True))) == 35


def test_squares_of_known_centres() -> None:
    """Of 4x4 pixels in images of 6x8: in the upper left corner, inside, and in the lower right corner."""
    output = Cutout(4)(torch.ones(800, 1, 6, 8), generator())[:, 0]
    draws = generator()
    rows, columns = (torch.randint(length, (800, 1), generator=draws)[:, 0] for length in (6, 8))
    for row, column, covered in ((0, 0, [[0, 1], [0, 1]]), (2, 3, [[0, 3], [1, 4]]), (5, 7, [[3, 5], [5, 7]])):
        hole = (output[(rows == row) & (columns == column)][0] == 0).nonzero()
        assert hole.amin(dim=0).tolist() == [first for first, _ in covered]
        assert hole.amax(dim=0).tolist() == [last for _, last in covered]
        assert len(hole) == (covered[0][1] - covered[0][0] + 1) * (covered[1][1] - covered[1][0] + 1)


def test_every_pixel_is_as_often_the_centre() -> None:
    holes = Cutout(1)(torch.ones(7000, 1, 5, 7), generator()) == 0
    assert (holes.flatten(1).sum(dim=1) == 1).all()
    assert holes.sum(dim=0).flatten().tolist() == pytest.approx([200] * 35, abs=5 * 200**0.5)


def test_what_is_cut_out_has_the_mean_colour_and_nothing_else_changes() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    shifts = Transform(mean, std, (RandomCrop(2), HorizontalFlip()))
    before, cut = shifts(IMAGES.byte(), generator()), Transform(mean, std, shifts.augmentations, (Cutout(4),))
    output = cut(IMAGES.byte(), generator())
    hole = (output == 0).all(dim=1, keepdim=True)
    assert torch.equal(output, before.masked_fill(hole, 0.0))
    assert ((hole.sum(dim=(1, 2, 3)) >= 4) & (hole.sum(dim=(1, 2, 3)) <= 16)).all()
    assert len({tuple(each.flatten().tolist()) for each in hole}) > 50  # of 64: each image has its own
    assert torch.equal(output, cut(IMAGES.byte(), generator()))
    assert torch.equal(cut(IMAGES.byte(), None), shifts(IMAGES.byte(), None))


@pytest.mark.parametrize("augment", [HorizontalFlip(), RandomCrop(2), Rotation(20), Cutout(4)])
def test_draws_depend_on_the_generator_alone(augment: object) -> None:
    transform = Transform((0.5,), (0.5,), (augment,))  # type: ignore[arg-type]
    pixels = IMAGES.byte()
    before = torch.random.get_rng_state()
    one, again, other = (transform(pixels, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(transform(pixels, None), Transform((0.5,), (0.5,))(pixels, None))
    assert torch.equal(pixels, IMAGES.byte())


def test_batches_are_augmented_only_where_a_client_trains() -> None:
    examples = Examples(IMAGES.byte(), torch.arange(64), Transform((0.5,), (0.5,), (RandomCrop(4),)))
    chosen = torch.tensor([3, 1, 4])
    plain, labels = examples.batch(chosen)
    assert torch.equal(plain, IMAGES[chosen] / 127.5 - 1)
    assert labels.tolist() == [3, 1, 4]
    augmented, _ = examples.batch(chosen, generator())
    assert not torch.equal(augmented, plain)
    assert torch.equal(examples.to(torch.device("cpu")).batch(chosen, generator())[0], augmented)


@pytest.mark.parametrize(
    ("mean", "std", "key"),
    [([0.5, 0.5], [1], "mean"), (0.5, [1], "mean"), ([0.5], [0], "std"), ([0.5], ["x"], "std"), ("abc", [1], "mean")],
)
def test_a_mean_or_deviation_that_does_not_fit_is_refused(mean: object, std: object, key: str) -> None:
    with pytest.raises(UserError, match=rf"^dataset\.{key}=.* is not possible: choose"):
        Transform.of(mean, std, ())  # type: ignore[arg-type]
