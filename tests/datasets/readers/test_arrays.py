"""Archives and pickles that promise more than they hold, or would make room for it."""

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.readers.arrays import read_npz
from datasets.readers.pickles import read_arrays
from fedsim.core.errors import UserError
from tests import harms

Pictures = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("seed", range(4))
def test_an_array_that_says_it_has_gigabytes_gets_no_room(
    seed: int, tmp_path: Path, pictures: Pictures, write: Any
) -> None:
    file = tmp_path / "own.npz"
    write.write_npz(file, pictures(30, 28, 28), pictures(10, 28, 28))
    harms.boasting(file, random.Random(seed))
    with pytest.raises(UserError, match=rf"^{file} cannot be read \(its .*\.npy holds 0 bytes, and by its first ones"):
        read_npz(file)


def test_an_archive_of_gigabytes_is_refused(tmp_path: Path) -> None:
    harms.bomb(tmp_path / "own.npz", random.Random(0))
    with pytest.raises(UserError, match=r"own\.npz cannot be read \(its \d+ bytes hold more than"):
        read_npz(tmp_path / "own.npz")


def test_a_member_outside_the_folder_is_never_unpacked(tmp_path: Path, pictures: Pictures, write: Any) -> None:
    (tmp_path / "in").mkdir()
    file, train = tmp_path / "in" / "own.npz", pictures(30, 28, 28)
    write.write_npz(file, train, pictures(10, 28, 28))
    harms.outside(file, random.Random(0))
    assert np.array_equal([read_npz(file).images[place] for place in range(30)], train[0])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


class Roomy:
    """A pickle that calls what makes arrays, for a terabyte."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_a_pickle_cannot_ask_for_room(tmp_path: Path) -> None:
    file = tmp_path / "test.pkl"
    file.write_bytes(pickle.dumps(Roomy(np.ndarray, ((1 << 20, 1 << 10, 1 << 10),))))
    with pytest.raises(TypeError, match="not callable"):
        read_arrays(file)
    reconstruct = np.zeros(1).__reduce__()[0]
    file.write_bytes(pickle.dumps(Roomy(reconstruct, (np.ndarray, (1 << 40,), b"b"))))
    assert read_arrays(file).nbytes == 0


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, "<U9", object])
def test_arrays_of_any_protocol_come_back(kind: Any, protocol: int, tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(kind))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([array, array[0, 0]], protocol))
    back, first = read_arrays(tmp_path / "a.pkl")
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert first == array[0, 0]
