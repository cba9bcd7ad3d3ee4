"""What a node's configuration may say, and how far it follows the server's settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord
from PIL import Image

from datasets.source import Part
from fedsim.config.settings import Settings
from fedsim.core.errors import Refusal, UserError
from fedsim.deployment.devices.node import NodeConfig, NodeProfile, confined
from fedsim.deployment.devices.own_federation import federation_of

MakeSettings = Callable[..., Settings]


def test_a_device_says_what_it_is() -> None:
    said = {"partition-id": 3, "data-dir": "/data/site3", "domain": "hospital_b", "state-dir": "/var/lib/fedsim"}
    node = NodeConfig.of(said)
    assert (node.partition, node.data_dir, node.domain) == (3, Path("/data/site3"), "hospital_b")
    assert node.state_dir == Path("/var/lib/fedsim")
    assert not node.simulated
    assert not node.share_personal


def test_what_a_node_says_does_not_make_it_a_simulated_one() -> None:
    """A simulated node follows the server wherever it leads; so that is Flower's word, and not the configuration's."""
    assert NodeConfig.of({"partition-id": 1, "num-partitions": 2}, simulated=True).simulated
    assert not NodeConfig.of({"partition-id": 1}).simulated
    with pytest.raises(UserError, match="num-partitions is for Flower's simulation: a device plays"):
        NodeConfig.of({"partition-id": 0, "num-partitions": 2})


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({}, "no partition-id"),
        ({"partition-id": -1}, "partition-id=-1 is not possible: choose a whole number of at least 0"),
        ({"partition-id": True}, "partition-id=True is not possible"),
        ({"partition-id": "3"}, "partition-id=3 is not possible: choose a whole number"),
        ({"partition-id": 2, "num-partitions": 2}, "partition-id=2 is not possible: choose 0 to 1"),
        ({"partition-id": 0, "statedir": "/s"}, "statedir=/s is not known: choose from partition-id"),
        ({"partition-id": 0, "data-dir": ""}, "data-dir= is not possible: choose a text in quotes"),
        ({"partition-id": 0, "state-afresh": 1}, "state-afresh=1 is not possible: choose true or false"),
        ({"partition-id": 0, "keep-runs": 0}, "keep-runs=0 is not possible: choose a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        NodeConfig.of(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["data-dir", "state-dir"])
def test_a_home_that_is_not_here_is_a_sentence_for_the_device_s_own_log(key: str) -> None:
    with pytest.raises(UserError, match=f"node-config {key}=~nobody_here/x names a home folder that is not") as caught:
        NodeConfig.of({"partition-id": 0, key: "~nobody_here/x"})
    assert not isinstance(caught.value, Refusal)


def test_the_server_is_told_no_path_of_the_device() -> None:
    said = {"partition-id": 3, "data-dir": "/data/site3", "domain": "b", "state-dir": "/var/s", "share-personal": True}
    told = NodeConfig.of(said).profile((5, 0, 2)).told()
    assert not any("/" in str(value) for value in told.values())
    profile = NodeProfile.of(told)
    assert profile == NodeProfile(3, 0, simulated=False, shares_personal=True, domain="b", images=(5, 0, 2))
    with pytest.raises(ValueError, match="does not say who it is"):
        NodeProfile.of(ConfigRecord({"partition": 1}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partition", -1),
        ("num_partitions", -2),
        ("num_partitions", 3),
        ("images", [5, 0, -2]),
        ("images", [5, 0]),
        ("images", 5),
        ("domain", "a/b"),
    ],
)
def test_a_profile_that_no_node_has_is_refused(key: str, value: Any) -> None:
    told = NodeConfig.of({"partition-id": 3}).profile((5, 0, 2)).told()
    told[key] = value
    with pytest.raises(ValueError, match="does not say who it is"):
        NodeProfile.of(told)


def test_a_device_plays_its_own_client_and_a_simulated_node_every_second_one() -> None:
    device, simulated = (
        NodeConfig.of({"partition-id": 1}),
        NodeConfig.of({"partition-id": 1, "num-partitions": 2}, simulated=True),
    )
    assert [client for client in range(6) if device.profile().hosts(client)] == [1]
    assert [client for client in range(6) if simulated.profile().hosts(client)] == [1, 3, 5]


def test_the_device_reads_where_it_says_itself(small_settings: MakeSettings, tmp_path: Path) -> None:
    node = NodeConfig.of({"partition-id": 0, "data-dir": str(tmp_path)})
    settings = small_settings("dataset=cifar10", "data_dir=/elsewhere", "download=true", small=False)
    followed = confined(settings, node)
    assert followed.data_dir == str(tmp_path.resolve())
    assert followed.dataset["npz"] == str(tmp_path.resolve() / "cifar10.npz")
    assert not followed.download
    assert confined(settings, NodeConfig.of({"partition-id": 0}, simulated=True)) == settings


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["dataset=cifar10", "dataset.npz=../secret.npz"],
            "dataset.npz=../secret.npz leads out of this device's data-dir",
        ),
        (["dataset=cifar10", "dataset.npz=/etc/shadow.npz"], "dataset.npz=/etc/shadow.npz leads out"),
        (["dataset=cifar10", "dataset.npz=link/x.npz"], "dataset.npz=link/x.npz leads out"),
        (["dataset=cifar10", "dataset.parquet='hf://someone/set'"], "leads out of this device's data-dir"),
        (["dataset=office_caltech10", "dataset.domains=[amazon,../../x]"], "leads out of this device's data-dir"),
        (["dataset=cifar10", "dataset.parquet='~/x'"], "dataset.parquet=~/x leads out"),
        (["dataset=cifar10", "dataset.parquet='simplecache::/etc'"], "dataset.parquet=simplecache::/etc leads out"),
        (["dataset=cifar10", "+dataset.more={a:[b,../c]}"], r"dataset.more=../c leads out"),
        (["model.pretrained=/etc/shadow"], "model.pretrained=/etc/shadow leads out of this device's data-dir"),
        (["dataset._target_=os.path.join"], "dataset._target_=os.path.join is not for devices"),
        (["dataset._target_=datasets.cache.os.system"], "datasets.cache.os.system is not for devices"),
        (
            ["dataset=tensors", "dataset.function=evil.load"],
            "dataset._target_=datasets.tensors.load is not for devices",
        ),
    ],
)
def test_no_setting_leads_out_of_its_folder(
    small_settings: MakeSettings, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    node = NodeConfig.of({"partition-id": 0, "data-dir": str(tmp_path / "data")})
    with pytest.raises(UserError, match=sentence):
        confined(small_settings(*words, small=False), node)


def test_a_class_may_have_any_name(small_settings: MakeSettings, tmp_path: Path) -> None:
    """It is no path: a folder that has another name is never opened."""
    images, names = tmp_path / "data", ["n01:cat", "~dog"]
    for part in ("train", "test"):
        for number, name in enumerate(names):
            (images / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (200 + number, 0, 0)).save(images / part / name / "0.png")
    node = NodeConfig.of({"partition-id": 0, "data-dir": str(images)})
    settings = small_settings("dataset=devices", f"dataset.classes={names}", "dataset.image_size=8", small=False)
    followed = confined(settings, node)
    assert followed.dataset["classes"] == names
    assert federation_of(settings, node).num_images(0, Part.TRAIN) == 2


def test_pretrained_weights_are_read_from_its_own_folder(small_settings: MakeSettings, tmp_path: Path) -> None:
    node = NodeConfig.of({"partition-id": 0, "data-dir": str(tmp_path)})
    followed = confined(small_settings("model.pretrained=sub/weights.pth"), node)
    assert followed.model["pretrained"] == str(tmp_path.resolve() / "sub" / "weights.pth")
    assert followed.model["name"] == "cnn_small"
    with pytest.raises(UserError, match=r"^model\.pretrained needs a device's node-config to have a data-dir"):
        confined(small_settings("model.pretrained=weights.pth"), NodeConfig.of({"partition-id": 0}))


def test_without_a_folder_of_its_own_it_takes_none_from_the_server(small_settings: MakeSettings) -> None:
    with pytest.raises(UserError, match="data_dir=/etc is the server's word"):
        confined(small_settings("data_dir=/etc"), NodeConfig.of({"partition-id": 0}))
    assert confined(small_settings("download=true"), NodeConfig.of({"partition-id": 0})).download is False
    for words in (["dataset=cifar10"], ["dataset=cifar10", "dataset.parquet=/tmp/x"], ["dataset=office_caltech10"]):
        with pytest.raises(UserError, match="needs a device's node-config to have a data-dir"):
            confined(small_settings(*words, small=False), NodeConfig.of({"partition-id": 0}))


def test_a_parquet_folder_is_the_device_s_and_not_the_process_s(small_settings: MakeSettings, tmp_path: Path) -> None:
    node = NodeConfig.of({"partition-id": 0, "data-dir": str(tmp_path)})
    followed = confined(small_settings("dataset=cifar10", "dataset.parquet=sub", small=False), node)
    assert followed.dataset["parquet"] == str(tmp_path.resolve() / "sub")
