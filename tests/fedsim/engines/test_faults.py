"""Injected faults: their shares and times, who is late, and what a run makes of them on every engine."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, RecordDict
from omegaconf import OmegaConf
from safetensors.torch import load_file

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.composition import compose, load
from fedsim.core.errors import RoundFailed, UserError
from fedsim.core.seeding import numpy_generator
from fedsim.engines.faults import DRAWN, Attendance, Faults
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.errors import SUPERFLUOUS, UNKNOWN
from fedsim.messages.schema import TRAIN, arrays_of, metrics_of
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.round import Round
from fedsim.server.simulation import run
from tests.conftest import small_settings
from tests.strategies.test_every_strategy import assert_same_run

HALF = "min_fraction_success=0.1"


def play(folder: Path, *words: str) -> Path:
    run(prepare(small_settings("engine=inline", *words)), folder, Reporter())
    return folder


def participation(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "participation.csv")


def test_faults_have_their_shares_and_the_same_ones_every_time() -> None:
    faults = Faults(drop_out=0.1, crash=0.05, not_finite=0.2, old=0.3, seed=4)
    drawn = [faults.drawn(round, client) for round in range(100) for client in range(40)]
    for name in (*DRAWN, None):
        share = 0.35 if name is None else getattr(faults, name)
        assert drawn.count(name) / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5 + 1e-9)
    assert drawn == [faults.drawn(round, client) for round in range(100) for client in range(40)]
    other = Faults(drop_out=0.1, crash=0.05, not_finite=0.2, old=0.3, seed=5)
    assert drawn != [other.drawn(round, client) for round in range(100) for client in range(40)]


def test_times_are_those_of_the_formula() -> None:
    assert Faults(seconds_per_image=0.5).seconds(3, 1, 30) == 15
    assert Faults(seconds_per_image=0.5, slow=1.0, slowdown=4.0).seconds(3, 1, 30) == 60
    wobble = numpy_generator(7, "jitter", round=3, client=1).normal()
    assert Faults(jitter=0.3, seed=7).seconds(3, 1, 100) == pytest.approx(np.exp(0.3 * wobble))
    slow = Faults(slow=0.25, slowdown=2.0)
    times = np.array([[slow.seconds(round, client, 100) for client in range(2000)] for round in (1, 2)])
    assert (times[0] == times[1]).all()  # the same clients in every round
    assert (times[0] == 2).mean() == pytest.approx(0.25, abs=0.04)


def test_who_is_late_and_who_is_not_needed() -> None:
    """Ten, five, one and five seconds."""
    images = {3: 100, 1: 50, 2: 10, 0: 50}
    faults = Faults(seconds_per_image=0.1)

    def outcomes(faults: Faults, needed: int) -> dict[int, str]:
        return {client: each.outcome for client, each in faults.attendance(1, images, needed).items()}

    assert outcomes(faults, 4) == dict.fromkeys(images, "answered")
    assert outcomes(faults, 2) == {2: "answered", 0: "answered", 1: "not_needed", 3: "not_needed"}
    late = Faults(seconds_per_image=0.1, deadline=5.0)
    assert outcomes(late, 4) == {3: "late", 1: "answered", 2: "answered", 0: "answered"}
    assert late.round_seconds(late.attendance(1, images, 4)) == 5
    assert faults.round_seconds(faults.attendance(1, images, 4)) == 10
    assert faults.round_seconds(faults.attendance(1, images, 2)) == 5  # the others are not waited for
    assert faults.round_seconds({0: Attendance("drop_out", 9.0)}) == 0


def test_a_client_that_drops_out_takes_nobodys_place() -> None:
    faults = Faults(drop_out=0.5)
    found = faults.attendance(1, dict.fromkeys(range(20), 10), 5)
    outcomes = [found[client].outcome for client in range(20)]
    assert outcomes.count("answered") == 5
    assert {outcome for outcome in outcomes if outcome != "answered"} == {"drop_out", "not_needed"}
    first_five = [client for client in range(20) if faults.drawn(1, client) is None][:5]
    assert [client for client, outcome in enumerate(outcomes) if outcome == "answered"] == first_five


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["faults.not_finite=1.5", HALF], "faults.not_finite=1.5 is not possible: choose a number from 0 to 1."),
        (["faults.slowdown=0.5"], "faults.slowdown=0.5 is not possible: choose a number of at least 1."),
        (["faults.deadline=0", HALF], "faults.deadline=0 is not possible: choose a number above 0, or null."),
        (["faults.deadline=soon"], "faults.deadline=soon is not possible: choose a number or null."),
        (["faults.jitter=-1"], "faults.jitter=-1 is not possible: choose a number from 0 to 10."),
        (["faults.jitter=1000"], "faults.jitter=1000 is not possible: choose a number from 0 to 10."),
        (["faults.garbage_scale=0"], "faults.garbage_scale=0 is not possible: choose a number above 0."),
        (
            ["faults.drop_out=0.7", "faults.not_finite=0.7", HALF],
            "faults.drop_out=0.7, faults.not_finite=0.7 are 1.4 together: choose shares that are at most 1 together.",
        ),
        (
            ["faults.deadline=3"],
            "faults.deadline=3 lets clients fail, and with min_fraction_success=1 the first that does ends the run: "
            "choose min_fraction_success=0.5, or faults=none.",
        ),
        (
            ["faults.over_selection=1.3"],
            "faults.over_selection=1.3 finds nobody more to ask with fraction=1: choose fraction=0.5, or "
            "faults.over_selection=1.",
        ),
    ],
)
def test_what_is_not_possible_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare(small_settings("faults=injected", *words))
    assert str(caught.value) == sentence


def test_real_devices_have_faults_of_their_own() -> None:
    with pytest.raises(UserError, match=r"^faults=injected is for simulations, and real devices have their own"):
        Faults().check(1.0, 1.0, on_devices=True)


def test_without_a_share_nothing_changes(tmp_path: Path) -> None:
    plain, injected = play(tmp_path / "plain"), play(tmp_path / "injected", "faults=injected")
    for name in ("clients.csv", "classes.csv", "model.safetensors"):
        assert (plain / name).read_bytes() == (injected / name).read_bytes()
    rounds = pd.read_csv(injected / "rounds.csv")
    assert rounds["simulated_seconds"].tolist()[1:] == [0.4, 0.4]  # 40 images
    pd.testing.assert_frame_equal(
        rounds.drop(columns=["seconds", "simulated_seconds"]),
        pd.read_csv(plain / "rounds.csv").drop(columns="seconds"),
    )
    assert set(participation(injected)["outcome"]) == {"answered"}


def test_the_model_is_the_average_of_those_that_answered(tmp_path: Path) -> None:
    words = ("rounds=1", "split=quantity", "split.num_clients=6")
    folder = play(tmp_path, *words, "faults=injected", "faults.drop_out=0.4", "faults.not_finite=0.2", HALF)
    found = participation(folder).set_index("client")["outcome"]
    assert {"answered"} < set(found) <= {"answered", "drop_out", "not_finite"}
    prepared = prepare(small_settings("engine=inline", *words))
    grid = InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
    messages = prepared.strategy.configure_train(1, to_record(prepared.model.state_dict()), ConfigRecord(), grid)
    replies = list(grid.send_and_receive(messages))
    answered = [reply for client, reply in enumerate(replies) if found[client] == "answered"]
    weights = np.array([float(metrics_of(reply)["num-examples"]) for reply in answered])  # type: ignore[arg-type]
    model = load_file(folder / "model.safetensors")
    for name in ("features.0.weight", "classifier.weight"):
        if name not in model:
            continue
        stacked = np.stack([to_tensors(arrays_of(reply))[name].double().numpy() for reply in answered])
        expected = np.tensordot(weights / weights.sum(), stacked, 1)
        np.testing.assert_allclose(model[name].double().numpy(), expected, rtol=1e-6, atol=1e-8)
    assert "features.0.weight" in model


FAULTS = tuple(f"faults.{name}=0.1" for name in DRAWN)


def test_each_fault_is_named_and_the_engines_and_a_stop_agree(tmp_path: Path) -> None:
    clients = ("split=iid", "split.num_clients=12", "seed=5")  # the seed lets all of it happen in four rounds
    faults = ("faults=injected", *FAULTS, "faults.jitter=0.5", "faults.deadline=0.4", HALF)
    words = ("rounds=4", "strategy=fedbn", *clients, *faults)
    inline = play(tmp_path / "inline", *words)
    rows = pd.read_csv(inline / "clients.csv")
    reasons = rows[rows["fault"].notna()].set_index(["round", "client"])["fault"]
    expected = {
        "drop_out": "it dropped out (faults.drop_out)",
        "crash": "faults.crash has chosen this client",
        "exhaust": "MemoryError: faults.exhaust has chosen this client",
        "not_finite": "it sent numbers in features.0.weight that are not finite",
        "late": "s, and faults.deadline=0.4 s",
    }
    table = participation(inline)
    assert set(table["outcome"]) == {*DRAWN, "answered", "late"}
    for _, row in table.iterrows():
        where = (row["round"], row["client"])
        if row["outcome"] in ("answered", "garbage"):
            assert where not in reasons.index
        elif row["outcome"] == "old":
            assert reasons[where] == f"it answered for round {row['round'] - 1} in round {row['round']}"
        else:
            assert reasons[where].endswith(expected[row["outcome"]])
    process = play(tmp_path / "process", *words, "engine=process", "engine.workers=2")

    class Stops(Reporter):
        def round_done(self, round: int, metrics: object) -> None:
            if round == 2:
                raise KeyboardInterrupt

    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run(prepare(small_settings("engine=inline", *words)), stopped, Stops())
    run(prepare(small_settings("engine=inline", *words, f"resume={stopped}")), stopped, Reporter())
    assert_same_run(inline, stopped)
    for name in ("model.safetensors", "participation.csv", "clients/0.safetensors"):
        assert (inline / name).read_bytes() == (process / name).read_bytes() == (stopped / name).read_bytes()
    died = pd.read_csv(process / "clients.csv").set_index(["round", "client"])["fault"]
    for _, row in table[table["outcome"] == "exhaust"].iterrows():
        assert "its worker died 3 times" in str(died[(row["round"], row["client"])])


def test_garbage_is_drawn_with_its_deviation_and_reaches_the_average(tmp_path: Path) -> None:
    words = ("rounds=1", "norm=gn", "faults=injected", "faults.garbage=1.0", "faults.garbage_scale=3.0", HALF)
    model = load_file(play(tmp_path, *words) / "model.safetensors")
    weights = torch.cat([tensor.flatten() for name, tensor in model.items() if name.endswith("weight")])
    assert weights.std().item() == pytest.approx(3 / 6**0.5, rel=0.05)  # of six


def test_more_are_asked_than_are_needed_and_those_left_out_have_not_failed(tmp_path: Path) -> None:
    words = ("fraction=0.5", "faults=injected", "faults.over_selection=1.7", "faults.jitter=1.0")
    folder = play(tmp_path, *words)  # with min_fraction_success=1
    for _, rows in participation(folder).groupby("round"):
        assert len(rows) == 5
        ordered = rows.sort_values("seconds")["outcome"].tolist()
        assert ordered == ["answered"] * 3 + ["not_needed"] * 2
        answered = rows[rows["outcome"] == "answered"]
        simulated = pd.read_csv(folder / "rounds.csv").set_index("round")["simulated_seconds"]
        assert simulated[rows["round"].iloc[0]] == answered["seconds"].max()
    assert "fault" not in pd.read_csv(folder / "clients.csv")


def test_too_many_faults_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(RoundFailed, match=r"it dropped out \(faults.drop_out\) \(with it 4 of 6 clients failed"):
        play(tmp_path, "faults=injected", "faults.drop_out=1.0", "min_fraction_success=0.5")


def test_a_run_of_before_there_were_faults_has_none(tmp_path: Path) -> None:
    settings = {key: value for key, value in compose([]).items() if key != "faults"}
    assert "hydra" not in settings
    OmegaConf.save(OmegaConf.create({**settings, "hydra": {}}), tmp_path / "config.yaml")
    assert load(tmp_path)["faults"] == compose([])["faults"]


def test_shares_that_are_one_together_in_decimal_are_possible() -> None:
    Faults(drop_out=0.4, crash=0.2, exhaust=0.3, not_finite=0.1)  # 1.0000000000000002 in binary
    with pytest.raises(UserError, match=r"are 1\.01 together"):
        Faults(drop_out=0.4, crash=0.2, exhaust=0.3, not_finite=0.11)


@pytest.mark.parametrize(
    "order", [("fail", "fail", "fail", "fail", "spare"), ("spare", "fail", "fail", "fail", "fail")]
)
def test_whether_enough_have_succeeded_does_not_depend_on_who_comes_first(order: tuple[str, ...]) -> None:
    """Of nine that were needed five succeed, fewer than six tenths."""
    codes = {"fail": UNKNOWN, "spare": SUPERFLUOUS}
    replies = []
    for client, what in enumerate([*order, *["succeed"] * 5]):
        message = Message(RecordDict(), client, TRAIN)
        content = RecordDict() if what == "succeed" else Error(codes[what], "drawn")
        replies.append(Message(content, reply_to=message))
    with pytest.raises(RoundFailed, match="4 of 9 clients failed"):
        list(Round(1, 0.6).successful(replies, len(replies), "train"))
    assert len(list(Round(1, 5 / 9).successful(replies, len(replies), "train"))) == 5


def test_as_many_as_the_smallest_share_are_enough() -> None:
    """Eleven of twenty are 0.55, also where 0.55 times twenty is above eleven in binary."""
    messages = [Message(RecordDict(), client, TRAIN) for client in range(20)]
    failed = [Message(Error(UNKNOWN, "drawn"), reply_to=message) for message in messages[:9]]
    replies = [*failed, *(Message(RecordDict(), reply_to=message) for message in messages[9:])]
    assert len(list(Round(1, 0.55).successful(replies, len(replies), "train"))) == 11
