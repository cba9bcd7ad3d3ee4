import numpy as np
import numpy.typing as npt
import pytest

from datasets.readers.decode import CHUNK, fill, resized
from datasets.readers.labelled import Images, Labelled

SIZE = 5


def arrays(count: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(count).integers(256, size=(count, *shape), dtype=np.uint8)


def chained(train: Images, test: Images) -> Images:
    return Labelled.train_test("here", (train, np.zeros(len(train), int)), (test, np.zeros(len(test), int))).images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, SIZE, 3), (SIZE + 2, SIZE), (SIZE - 1, SIZE, 3)])
@pytest.mark.parametrize("train", [CHUNK - 3, CHUNK, 2 * CHUNK + 1])
def test_blocks_of_arrays_have_the_pixels_of_single_images(train: int, shape: tuple[int, ...], channels: int) -> None:
    """A block may lie in the training images, in the test images, or in both."""
    images = chained(arrays(train, *shape), arrays(CHUNK + 7, *shape))
    out = np.zeros((len(images), channels, SIZE, SIZE), np.uint8)
    fill(out, images)
    assert np.array_equal(out, np.stack([resized(images[row], channels, SIZE) for row in range(len(images))]))


def test_training_and_test_images_may_have_other_forms() -> None:
    grey, colour = arrays(CHUNK, SIZE, SIZE), arrays(CHUNK, SIZE, SIZE, 3)
    out = np.zeros((2 * CHUNK, 3, SIZE, SIZE), np.uint8)
    fill(out, chained(grey, colour))
    assert np.array_equal(out[:CHUNK], np.repeat(grey[:, None], 3, axis=1))
    assert np.array_equal(out[CHUNK:], colour.transpose(0, 3, 1, 2))


def test_images_that_are_decoded_one_by_one_are_not_taken_as_arrays() -> None:
    class Listed:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
            return np.full((SIZE, SIZE), index, np.uint8)

    out = np.full((2, 1, SIZE, SIZE), 9, np.uint8)
    fill(out, Listed())
    assert out[0].max() == 0
    assert out[1].min() == 1
