"""``dataset=devices``: a device reads its own folder, and the server knows how many images there are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from PIL import Image

from datasets.build import build_federation
from datasets.devices import SPLIT, DeviceData, DeviceFederation, count_of_devices, device_federation, own_federation
from datasets.source import Part
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.deployment.devices.node import NodeConfig, NodeProfile
from fedsim.engines.grid import WrappedGrid
from fedsim.engines.inline import InlineGrid
from fedsim.output.progress import Reporter
from fedsim.output.results import read_result
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run

MakeSettings = Callable[..., Settings]
WORDS = ("dataset=devices", "dataset.classes=[cat,dog]", "dataset.image_size=8", "split.num_clients=2")


def settings_of(small_settings: MakeSettings, *words: str) -> Settings:
    return small_settings(*WORDS, *words, small=False)


def node(folder: Path | None, **more: object) -> NodeConfig:
    said = {"partition-id": 1, **({} if folder is None else {"data-dir": str(folder)}), **more}
    return NodeConfig.of(said)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
        "train_labels": np.array([0, 1, 0, 1, 1, 1]),
        "test_images": rng.integers(0, 256, (3, 8, 8, 3), np.uint8),
        "test_labels": np.array([1, 0, 1]),
    }
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("test", 2)):
        for name, value in (("cat", 10), ("dog", 200)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (value, number, 0)).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def test_an_archive_is_the_device_s_one_client(small_settings: MakeSettings, archive: Path) -> None:
    federation = own_federation(settings_of(small_settings), node(archive, domain="hospital_b"))
    images = np.load(archive / "data.npz")
    train, test = (federation.examples_of(1, part) for part in (Part.TRAIN, Part.TEST))
    assert train.labels.tolist() == images["train_labels"].tolist()
    assert np.array_equal(train.images.numpy(), images["train_images"].transpose(0, 3, 1, 2))
    assert test.labels.tolist() == [1, 0, 1]
    assert federation.partitions[1].domain == "hospital_b"
    assert len(federation.examples_of(0, Part.TRAIN)) == 0  # of the others it knows nothing
    assert federation.source.class_names == ("cat", "dog")


def test_folders_of_image_files_do_as_well(small_settings: MakeSettings, folders: Path) -> None:
    federation = own_federation(settings_of(small_settings), node(folders))
    train = federation.examples_of(1, Part.TRAIN)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.images[:, 0, 0, 0].tolist() == [10, 10, 10, 200, 200, 200]
    assert train.images[:, 1, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert federation.num_images(1, Part.TEST) == 4
    assert federation.partitions[1].domain == "device1"


def test_a_class_may_be_missing_but_none_may_be_unknown(small_settings: MakeSettings, folders: Path) -> None:
    for part in ("train", "test"):
        for path in (folders / part / "cat").iterdir():
            path.unlink()
        (folders / part / "cat").rmdir()
    federation = own_federation(settings_of(small_settings), node(folders))
    assert set(federation.examples_of(1, Part.TRAIN).labels.tolist()) == {1}
    (folders / "train" / "bird").mkdir()
    with pytest.raises(UserError, match=r"bird is no class: dataset.classes has cat, dog"):
        own_federation(settings_of(small_settings), node(folders))


def test_what_cannot_be_read_is_named(small_settings: MakeSettings, tmp_path: Path, archive: Path) -> None:
    with pytest.raises(UserError, match="dataset=devices needs each device"):
        own_federation(settings_of(small_settings), node(None))
    with pytest.raises(UserError, match=r"train is missing: a device's data-dir holds data.npz, or the folders"):
        own_federation(settings_of(small_settings), node(tmp_path / "nothing"))
    archive.joinpath("data.npz").write_bytes(archive.joinpath("data.npz").read_bytes()[:200])
    with pytest.raises(UserError, match=r"data.npz cannot be read"):
        own_federation(settings_of(small_settings), node(archive))


def test_labels_beyond_the_classes_are_refused(small_settings: MakeSettings, archive: Path) -> None:
    arrays = dict(np.load(archive / "data.npz"))
    np.savez(archive / "data.npz", **{**arrays, "train_labels": arrays["train_labels"] + 1})
    with pytest.raises(UserError, match="holds the label 2: allowed are 0 to 1"):
        own_federation(settings_of(small_settings), node(archive))


def profile(partition: int, images: tuple[int, int, int] = (6, 0, 3), domain: str = "") -> NodeProfile:
    return NodeProfile(partition, 0, simulated=False, shares_personal=False, domain=domain, images=images)


def test_the_server_knows_numbers_and_no_image(small_settings: MakeSettings) -> None:
    settings = settings_of(small_settings)
    federation = device_federation(settings, {1: profile(1, (9, 0, 4), "b"), 0: profile(0, domain="a")})
    assert [federation.num_images(client, Part.TRAIN) for client in federation.clients] == [6, 9]
    assert [partition.domain for partition in federation.partitions] == ["a", "b"]
    assert federation.on_devices
    assert federation.source.image_shape == (3, 8, 8)
    assert not federation.test_domains(0)
    with pytest.raises(UserError, match="the images of dataset=devices are on the devices"):
        federation.examples_of(0, Part.TRAIN)
    prepared = prepare(settings, federation)
    assert prepared.costs.images == [6, 9]
    with pytest.raises(UserError, match="diagnostics=true needs what devices do not tell"):
        prepare(settings_of(small_settings, "diagnostics=true"), federation)


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        (
            {0: profile(0)},
            "split.num_clients=2 is not possible, no device has joined with partition-id=1; node 7 is slow: start it",
        ),
        ({0: profile(0), 1: profile(1, (0, 0, 3))}, "client 1 has 0 images to train and 3 to test on: it needs both"),
        ({0: profile(0), 1: profile(1, (3, 0, 0))}, "client 1 has 3 images to train and 0 to test on: it needs both"),
    ],
)
def test_every_client_needs_a_device_with_images(
    small_settings: MakeSettings, nodes: dict[int, NodeProfile], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        device_federation(settings_of(small_settings), nodes, ["node 7 is slow"])


def test_without_a_number_the_devices_that_are_there_take_part(small_settings: MakeSettings) -> None:
    settings = settings_of(small_settings, "split.num_clients=null")
    assert count_of_devices(settings) is None
    federation = device_federation(settings, {0: profile(0), 1: profile(1), 2: profile(2, (5, 0, 4))})
    assert [federation.num_images(client, Part.TRAIN) for client in federation.clients] == [6, 6, 5]


def test_it_is_not_for_a_simulation(small_settings: MakeSettings) -> None:
    with pytest.raises(UserError, match=r"dataset=devices is images that real devices hold"):
        build_federation(settings_of(small_settings))
    with pytest.raises(UserError, match=r"split.num_clients=0 is not possible: choose how many devices"):
        count_of_devices(replace(settings_of(small_settings), split={**SPLIT, "num_clients": 0}))
    for words, sentence in (
        (["dataset.classes=[cat,cat]"], r"dataset.classes=\['cat', 'cat'\] is not possible"),
        (["dataset.classes=true"], "dataset.classes=True is not possible"),
        (["dataset.channels=4"], "dataset.channels=4 is not possible: choose 1 or 3"),
        (["dataset.image_size=0"], "dataset.image_size=0 is not possible"),
    ):
        with pytest.raises(UserError, match=sentence):
            device_federation(settings_of(small_settings, *words), {0: profile(0), 1: profile(1)})


def test_a_run_whose_devices_share_one_model_ends_and_can_be_read(tmp_path: Path, small_settings: MakeSettings) -> None:
    """Devices tell no accuracies of classes, and one model for all is known to the server."""
    own = small_settings("strategy=fedavg", "norm=gn", "rounds=1")
    images = build_federation(own)
    profiles = {}
    for client in images.clients:
        train, validation, test = (images.num_images(client, part) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST))
        profiles[client] = profile(client, (train, validation, test), images.domain_of(client))
    size = images.source.image_shape[1]
    words = ("dataset=devices", "dataset.classes=10", f"dataset.image_size={size}", "strategy=fedavg", "norm=gn")
    settings = small_settings(*words, "rounds=1", "pictures=false", small=False)
    prepared = prepare(settings, DeviceFederation(DeviceData(image_size=size), profiles))

    class Remote(WrappedGrid):
        def passed(self, message: Message, reply: Message) -> Message:
            return reply

        def client_states(self) -> None:
            """Nothing is known of them here."""

    with InlineGrid(ClientAppFactory(own, images), len(images.clients), [torch.device("cpu")]) as clients:
        run(prepared, tmp_path / "run", Reporter(), Remote(clients))
    read = read_result(tmp_path / "run")
    assert sorted(read.clients["client"].unique()) == list(images.clients)
    assert not (tmp_path / "run" / "classes.csv").exists()
