"""The engine on Ray: a cluster of two nodes on loopback, one of which is lost, and the same numbers as inline."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.config.settings import Settings
from fedsim.core.checkout import ROOT
from fedsim.core.errors import FedsimError, UserError
from fedsim.engines.pool import ATTEMPTS
from fedsim.engines.ray_grid import RayGrid
from fedsim.engines.ray_worker import Shipped
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of, metrics_of
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.apps import broken_app, counting_app, dies_once_app

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
CPU = [torch.device("cpu")]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """Two nodes with a core each, as two machines would be; they can import the apps of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        cluster = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


@pytest.fixture
def grid(cluster: object) -> Iterator[RayGrid]:
    with RayGrid(counting_app, 7, CPU, address=cluster.address) as grid:  # type: ignore[attr-defined]
        yield grid


def messages(config: dict[str, object] | None = None) -> list[Message]:
    arrays = to_record({"w": torch.arange(1000.0), "n": torch.tensor(1)})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 4, **(config or {})})})
    return [Message(content, client, "train") for client in range(7)]


def clients(replies: list[Message]) -> list[object]:
    return [metrics_of(reply)["client"] for reply in replies]


def test_arrays_arrive_without_a_copy_or_with_one(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.arange(12, dtype=np.uint8))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    shipped = Shipped.of({"images": mapped, "name": "digits"})
    assert len(shipped.pickled) < 1000
    assert str(tmp_path).encode() not in shipped.pickled  # other machines do not have the file
    value = shipped.value()
    assert value["images"].tolist() == list(range(12))
    assert np.shares_memory(value["images"], shipped.buffers[0])
    assert not np.shares_memory(shipped.value(copy=True)["images"], shipped.buffers[0])


@pytest.mark.nightly
def test_replies_come_in_order_from_both_nodes_and_states_stay_here(grid: RayGrid) -> None:
    workers: set[object] = set()
    calls = 0
    while len(workers) < 2 or calls < 2:  # the second may join late
        calls += 1
        replies = list(grid.send_and_receive(reversed(messages())))
        assert clients(replies) == [6, 5, 4, 3, 2, 1, 0]
        assert {metrics_of(reply)["calls"] for reply in replies} == {calls}
        for reply in replies:
            client = int(str(metrics_of(reply)["client"]))
            assert torch.equal(to_tensors(arrays_of(reply))["w"], torch.arange(1000.0) + client)
        workers |= {metrics_of(reply)["pid"] for reply in replies}
    assert len({worker.place for worker in grid.workers}) == 2
    assert grid.client_states()[5]["calls"] == {"n": calls}
    assert 10 < grid.memory_mb() <= 1.02 * grid.peak_memory_mb()


@pytest.mark.nightly
def test_a_client_that_raises_answers_with_an_error_and_keeps_its_state(grid: RayGrid) -> None:
    replies = list(grid.send_and_receive(messages({"raise": 2})))
    assert [reply.has_error() for reply in replies] == [False, False, True, False, False, False, False]
    assert replies[2].error.reason.startswith("ValueError: client 2 was told to raise\nTraceback")
    assert len(grid.client_states()[2]) == 0


@pytest.mark.nightly
def test_a_killed_worker_is_named_and_replaced_and_its_client_starts_over(
    grid: RayGrid, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0").touch()
    for client in range(2, 7):
        (tmp_path / str(client)).touch()  # only client 1 kills its worker
    replies = list(grid.send_and_receive(messages({"kill_once": str(tmp_path)})))
    assert clients(replies) == list(range(7))
    assert {metrics_of(reply)["calls"] for reply in replies} == {1}
    assert "while it computed client 1 in round 4; it is replaced" in caplog.text


@pytest.mark.nightly
def test_a_client_that_always_kills_its_worker_fails_alone(grid: RayGrid) -> None:
    replies = list(grid.send_and_receive(messages({"kill": 1})))
    assert [reply.has_error() for reply in replies] == [False, True, False, False, False, False, False]
    assert replies[1].error.reason.startswith(f"its worker died {ATTEMPTS} times (")


@pytest.mark.nightly
def test_an_app_that_cannot_be_built_is_an_error(cluster: object) -> None:
    with pytest.raises(FedsimError, match=r"(?s)worker \d could not be started: .*the app cannot be built"):
        RayGrid(broken_app, 2, CPU, address=cluster.address)  # type: ignore[attr-defined]


@pytest.mark.nightly
def test_a_worker_that_dies_while_it_starts_is_started_again(cluster: object, tmp_path: Path) -> None:
    with RayGrid(partial(dies_once_app, tmp_path), 1, CPU, address=cluster.address) as grid:  # type: ignore[attr-defined]
        assert (tmp_path / "died").exists()
        assert clients(list(grid.send_and_receive(messages()[:1]))) == [0]


@pytest.mark.nightly
def test_a_lost_node_costs_no_client(cluster: object) -> None:
    """Half of the workers go with the node; the others compute its clients."""
    node = cluster.add_node(num_cpus=2, resources={"late": 1})  # type: ignore[attr-defined]
    cluster.wait_for_nodes()  # type: ignore[attr-defined]
    with RayGrid(counting_app, 7, CPU, address=cluster.address) as grid:  # type: ignore[attr-defined]
        replies = grid.send_and_receive(messages())
        first = [next(replies)]
        cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
        assert clients([*first, *replies]) == list(range(7))
        second = list(grid.send_and_receive(messages()))
        assert clients(second) == list(range(7))
        assert len({metrics_of(reply)["pid"] for reply in second}) <= 2  # what is left has two cores
        assert [grid.client_states()[client]["calls"] for client in range(7)] == [{"n": 2}] * 7


@pytest.mark.nightly
@pytest.mark.parametrize(
    "words",
    [("strategy=fedbn",), pytest.param(("strategy=scaffold", "compression=int8"), marks=pytest.mark.nightly)],
)
def test_a_run_has_the_bytes_of_an_inline_one(
    cluster: object, small_settings: Callable[..., Settings], tmp_path: Path, words: tuple[str, ...]
) -> None:
    there = f"engine.address={cluster.address}"  # type: ignore[attr-defined]
    for name, engine in (("inline", ("engine=inline",)), ("ray", ("engine=ray", there))):
        run(prepare(small_settings(*words, *engine)), tmp_path / name, Reporter())
    for file in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "ray" / file).read_bytes() == (tmp_path / "inline" / file).read_bytes()
    rounds = [pd.read_csv(tmp_path / name / "rounds.csv").drop(columns="seconds") for name in ("inline", "ray")]
    pd.testing.assert_frame_equal(*rounds)


def test_an_address_where_nobody_answers_is_refused() -> None:
    with pytest.raises(UserError, match=r"^engine\.address=127\.0\.0\.1:9 is not possible \("):
        RayGrid(counting_app, 2, CPU, address="127.0.0.1:9")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["engine.workers=0"], "engine.workers=0 is not possible: choose a whole number of at least 1."),
        (["engine.gpus_per_worker=2"], "engine.gpus_per_worker=2 is not possible: choose a number above 0 and at"),
        (["engine.address=6379"], "engine.address=6379 is not possible: choose a text or null."),
    ],
)
def test_wrong_words_are_refused_in_a_sentence(refusal: Callable[..., str], words: list[str], sentence: str) -> None:
    assert refusal("engine=ray", *words).startswith(sentence)
