"""What can become of a file: by accident, or because somebody means harm."""

import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

Harm = Callable[[Path, random.Random], object]

BLOCK = 1 << 24
BLOCKS = 240
"""A bomb holds so many blocks of zeros: 4 GB, which every member of an archive may have."""
WRONG = (
    None,
    True,
    -1,
    0,
    1,
    1e30,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "a",
    "é\n",
    [],
    [1],
    [[]],
    {},
    {"a": {"b": 1}},
)
"""Values of all types, wrong nearly everywhere."""


class Evil:
    """Would make a file if a pickle that holds it were read as Python reads pickles."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def mark_of(file: Path) -> Path:
    """Return the file that a harmful pickle in the place of ``file`` would make."""
    return file.with_name(f"{file.name}.executed")


def truncated(file: Path, drawn: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: drawn.randrange(file.stat().st_size)])


def flipped(file: Path, drawn: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(drawn.choice((1, 8, 64))):
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    file.write_bytes(content)


def inserted(file: Path, drawn: random.Random) -> None:
    content, more = file.read_bytes(), drawn.choice((b"\0", b"\xff", b"\n", b"7", b",", b"\x80\x04.", b"x" * 999))
    place = drawn.randrange(len(content) + 1)
    file.write_bytes(content[:place] + more + content[place:])


def emptied(file: Path, drawn: random.Random) -> None:
    file.write_bytes(b"")


def looping(file: Path, drawn: random.Random) -> None:
    file.unlink()
    file.symlink_to(file.name)


def dangling(file: Path, drawn: random.Random) -> None:
    file.unlink()
    file.symlink_to("nothing")


def folder(file: Path, drawn: random.Random) -> None:
    file.unlink()
    file.mkdir()


def evil_pickle(file: Path, drawn: random.Random) -> None:
    evil = {"head.weight": Evil(mark_of(file))}
    if drawn.random() < 0.5:
        torch.save(evil, file, _use_new_zipfile_serialization=drawn.random() < 0.5)
    else:
        file.write_bytes(pickle.dumps(evil, drawn.randrange(6)))


def evil_yaml(file: Path, drawn: random.Random) -> None:
    file.write_text(f"rounds: !!python/object/apply:os.mkdir ['{mark_of(file)}']\n")


def laughing(file: Path, drawn: random.Random) -> None:
    """A few lines of YAML, also valid in the place of other texts, whose aliases stand for ten billion values."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    file.write_text("\n".join([*lines, ""]) + file.read_text(errors="ignore"))


def nested(file: Path, drawn: random.Random) -> None:
    depth = drawn.choice((500, 100_000))
    file.write_text(drawn.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)))


def bomb(file: Path, drawn: random.Random) -> None:
    """Four gigabytes of zeros, in the compression of the name's ending or of an archive."""
    if file.suffix == ".bz2":
        import bz2

        file.write_bytes(bz2.compress(bytes(BLOCK)) * BLOCKS)
    elif file.suffix == ".gz":
        header = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
        file.write_bytes(header + deflated() + struct.pack("<II", 0, BLOCK * BLOCKS))
    elif file.suffix == ".png":
        write_png(file, 60_000)
    else:
        array = io.BytesIO()
        np.lib.format.write_array_header_1_0(  # what follows is of another compressed stream
            array, {"descr": "|u1", "fortran_order": False, "shape": (BLOCK * BLOCKS // 784, 28, 28)}
        )
        names = [f"{half}_{what}.npy" for half in ("train", "test") for what in ("images", "labels")]
        names += ["archive/data.pkl", "archive/data/0", "archive/version", "archive/byteorder"]
        write_archive(file, dict.fromkeys(names, (stored(array.getvalue()) + deflated(), BLOCK * BLOCKS)))


def stored(data: bytes) -> bytes:
    """Return data as the first, uncompressed block of a deflated stream."""
    return b"\0" + struct.pack("<HH", len(data), len(data) ^ 0xFFFF) + data


@cache
def deflated() -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(BLOCK)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return block * BLOCKS + compressor.flush()


def write_archive(file: Path, members: dict[str, tuple[bytes, int]]) -> None:
    """Write a zip archive of deflated streams with the sizes that they are said to have."""
    content, central = b"", b""
    for name, (packed, size) in members.items():
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0x21, 0, len(packed), size, len(name), 0)
        central += b"PK\x01\x02\x14\0" + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(content)) + name.encode()
        content += b"PK\x03\x04" + fields + name.encode() + packed
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(central), len(content), 0)
    file.write_bytes(content + central + b"PK\x05\x06" + end)


def write_png(file: Path, size: int) -> None:
    """Write the beginning of a picture of so many pixels in each direction."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))))


def boasting(file: Path, drawn: random.Random) -> None:
    """An archive one of whose arrays says that it has gigabytes, and has not."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = drawn.choice(sorted(members))
    array = io.BytesIO()
    shape = (1 << 24, 28, 28) if "images" in name else (1 << 33,)
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w") as archive:
        for each, data in members.items():
            archive.writestr(each, array.getvalue() if each == name else data)


def outside(file: Path, drawn: random.Random) -> None:
    """An archive with a member that would lie outside the folder if it were unpacked."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"../{mark_of(file).name}", b"x")


def changed_array(array: np.ndarray, drawn: random.Random) -> np.ndarray:
    """Return an array of another type or shape, or with numbers that are none."""
    how, text = drawn.randrange(6), array.dtype.kind in "US"
    if how == 0:
        numbers = (np.float64, np.float16, np.int32, np.bool_, np.complex64)
        return array.astype(drawn.choice((np.bytes_, object) if text else numbers))
    if how == 1:
        return array.reshape(-1)
    if how == 2:
        return array[:-1] if array.ndim else array.reshape(1)
    if how == 3:
        return array[None]
    if how == 4:
        return np.full(array.shape, drawn.choice((np.nan, np.inf, -np.inf)), np.float32)
    return np.full_like(array, "?" if text else 255 if array.dtype.kind in "iu" else 1e30)


def other_npz(file: Path, drawn: random.Random) -> None:
    with np.load(file) as archive:
        arrays = dict(archive)
    name = drawn.choice(sorted(arrays))
    np.savez(file, **{**arrays, name: changed_array(arrays[name], drawn)})


def other_pickle(file: Path, drawn: random.Random) -> None:
    content = pickle.loads(file.read_bytes())
    if isinstance(content, dict):
        name = drawn.choice(sorted(content))
        content[name] = changed_array(np.asarray(content[name]), drawn)
    else:
        content = list(content)
        place = drawn.randrange(len(content))
        content[place] = drawn.choice((changed_array(np.asarray(content[place]), drawn), *WRONG))
    file.write_bytes(pickle.dumps(content))


def other_tensors(file: Path, drawn: random.Random) -> None:
    """A tensor of another type, shape or name."""
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
        metadata = dict(opened.metadata() or {})
    save_file(other_entry(tensors, drawn), file, metadata or None)


def other_torch(file: Path, drawn: random.Random) -> None:
    torch.save(other_entry(torch.load(file), drawn), file)


def other_entry(tensors: dict[str, torch.Tensor], drawn: random.Random) -> dict[str, torch.Tensor]:
    name = drawn.choice(sorted(tensors))
    how = drawn.randrange(4)
    if how == 0:
        return {key: tensor for key, tensor in tensors.items() if key != name}
    if how == 1:
        return {f"x{key}" if key == name else key: tensor for key, tensor in tensors.items()}
    return {**tensors, name: torch.from_numpy(np.ascontiguousarray(changed_array(tensors[name].numpy(), drawn)))}


def other_table(file: Path, drawn: random.Random) -> None:
    """A column is missing or has another name, rows are there twice, or a cell holds something else."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    column = drawn.choice(list(table.columns))
    how = drawn.randrange(5)
    if how == 0:
        table = table.drop(columns=column)
    elif how == 1:
        table = table.rename(columns={column: drawn.choice(("x", "", "round", "é", f"{column} "))})
    elif how == 2:
        table = pd.concat([table, table.sample(frac=0.5, random_state=drawn.randrange(99))])
    elif how == 3:
        table = table.iloc[: drawn.randrange(len(table))]
    else:
        cells = ("", "nan", "inf", "-1", "1e400", "99999999999999999999", "x", "é,\n", "True", "0.5")
        rows = [drawn.randrange(len(table))] if drawn.random() < 0.5 else range(len(table))
        table.loc[list(rows), column] = drawn.choice(cells)
    table.to_csv(file, index=False)


def other_values(file: Path, drawn: random.Random) -> None:
    """One value of a YAML or JSON file is of another type, or not there."""
    text = file.read_text()
    content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    places = list(_places(content))
    above, key = drawn.choice(places) if places else ([], 0)
    if places and drawn.random() < 0.3:
        del above[key]
    elif places:
        above[key] = drawn.choice(WRONG)
    file.write_text(json.dumps(content) if file.suffix == ".json" else yaml.safe_dump(content))


def _places(content: Any) -> Iterable[tuple[Any, Any]]:
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(inside):
        yield content, key
        yield from _places(value)


def other_parquet(file: Path, drawn: random.Random) -> None:
    table = pd.read_parquet(file)
    column = drawn.choice(list(table.columns))
    if drawn.random() < 0.3:
        table = table.drop(columns=column)
    else:
        table[column] = drawn.choice((None, 7, -1, 10**10, 0.5, "x", b"", b"x", float("nan")))
    table.to_parquet(file)


ANY: tuple[Harm, ...] = (truncated, flipped, inserted, emptied, looping, dangling, folder, evil_pickle, bomb)
OF_TEXTS: tuple[Harm, ...] = (laughing, nested, other_values, evil_yaml)
BY_ENDING: dict[str, tuple[Harm, ...]] = {
    ".csv": (other_table,),
    ".yaml": OF_TEXTS,
    ".json": OF_TEXTS,
    ".safetensors": (other_tensors,),
    ".pt": (other_torch, boasting),
    ".npz": (other_npz, boasting, outside),
    ".pkl": (other_pickle,),
    ".parquet": (other_parquet,),
}


def harms_of(file: str) -> tuple[Harm, ...]:
    """Return what can become of a file with this name; those of its own form as often as all the others."""
    mine = BY_ENDING.get(Path(file).suffix, ())
    return ANY + mine * (len(ANY) // len(mine) if mine else 0)
