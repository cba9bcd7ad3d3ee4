"""Augmentations of whole batches against torchvision's, image by image."""

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from datasets.examples import Examples
from datasets.transforms import Cutout, HorizontalFlip, RandomCrop, Rotation, Transform
from fedsim.errors import UserError

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


def test_cutout_blackens_one_square_cut_off_at_the_border() -> None:
    images = torch.full((400, 2, 16, 16), 9.0)
    holes = Cutout(6)(images, generator()) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    rows, columns = holes[:, 0].any(dim=2), holes[:, 0].any(dim=1)
    assert torch.equal(holes[:, 0], rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        lengths = side.sum(dim=1)
        assert set(lengths.tolist()) == {3, 4, 5, 6}
        assert (side.int().diff(dim=1).abs().sum(dim=1) <= 2).all()  # in one piece
        assert (lengths == 6).double().mean() == pytest.approx(11 / 16, abs=0.08)


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
