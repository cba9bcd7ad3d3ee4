"""Central training is one client with all images, which is tested as the clients are."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import Message

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.messages.schema import TRAIN, metrics_of
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run


class Watched(InlineGrid):
    """Keeps who trained on how many images."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            (reply,) = super().send_and_receive([message])
            if message.metadata.message_type == TRAIN:
                self.trained = [*getattr(self, "trained", []), (message.metadata.dst_node_id, metrics_of(reply))]
            yield reply


def test_it_is_fedavg_of_a_single_client_bit_for_bit_and_its_model_is_tested_on_every_client(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    prepared = prepare(small_settings("strategy=central", "fraction=0.5", "engine=inline"))
    grid = Watched(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
    central = run(prepared, tmp_path / "central", Reporter(), grid)
    assert [(client, metrics["num-examples"]) for client, metrics in grid.trained] == 2 * [(0, 6 * 40)]
    words = ("strategy=fedavg", "split=iid", "split.num_clients=1", "engine=inline")
    alone = run(prepare(small_settings(*words)), tmp_path / "alone", Reporter())
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("central", "alone")]
    assert models[0] == models[1]
    columns = [name for name in alone.rounds if name.startswith(("global", "domain_accuracy", "train"))]
    assert {"global_accuracy", "global_loss", "domain_accuracy.street", "train_loss"} <= set(columns)
    pd.testing.assert_frame_equal(central.rounds[columns], alone.rounds[columns], check_exact=True)
    rows = central.clients[central.clients["round"] == 2]
    assert rows["client"].tolist() == [*range(6)]
    last = central.rounds.iloc[-1]
    assert rows["accuracy"].tolist() == [last[f"domain_accuracy.{domain}"] for domain in rows["domain"]]


def test_where_the_images_are_is_refused_if_it_is_the_wrong_place(small_settings: Callable[..., Settings]) -> None:
    with pytest.raises(UserError, match=r"^split\.pooled=false is not possible with strategy=central, which needs a"):
        prepare(small_settings("strategy=central", "split.pooled=false"))
    with pytest.raises(UserError, match=r"^split\.pooled=true gives each client the training images of all, which str"):
        prepare(small_settings("strategy=fedavg", "split.pooled=true"))
    with pytest.raises(UserError, match=r"^strategy=central averages in a way of its own: choose aggregation=mean"):
        prepare(small_settings("strategy=central", "aggregation=median"))
