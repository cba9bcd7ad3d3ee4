"""The numbers in a page are those of the runs' tables, read here with pandas alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedsim.output.results import Result, read_result
from fedsim.report.page.frames import accuracy_curves, domain_curves
from fedsim.report.page.further_frames import costs, faults, label_maps
from tests.fedsim.report.page.conftest import data_in, table_in

CLOSE = 1e-5
"""Six digits are kept."""


def csv(run: Result, name: str) -> pd.DataFrame:
    return pd.read_csv(run.run_dir / name)


@pytest.mark.nightly
def test_curves_are_rounds_csv_with_the_bytes_and_seconds_up_to_there(
    plain: dict[str, list[Result]], plain_page: str
) -> None:
    curves = table_in(data_in(plain_page), "curves")
    assert list(curves["method"].unique()) == ["FedAvg", "FedBN"]
    runs = [run for group in plain.values() for run in group]
    for number, run in enumerate(runs):
        mine, rounds, clients = curves[curves["run"] == number], csv(run, "rounds.csv"), csv(run, "clients.csv")
        assert mine["seed"].tolist() == [run.summary["seed"]] * 3
        for name in ("round", "client_accuracy_mean", "global_accuracy"):
            assert mine[name].tolist() == pytest.approx(rounds[name].tolist(), rel=CLOSE)
        by_round = clients.groupby("round")["accuracy"]
        assert mine["worst_client"].tolist() == pytest.approx(by_round.min().tolist(), rel=CLOSE)
        assert mine["best_client"].tolist() == pytest.approx(by_round.max().tolist(), rel=CLOSE)
        sent = rounds[["bytes_down", "bytes_up"]].fillna(0).sum(axis=1).cumsum() / 1e6
        assert mine["megabytes"].tolist() == pytest.approx(sent.tolist(), rel=CLOSE)
        assert mine["seconds"].iloc[-1] == pytest.approx(run.summary["seconds"], rel=CLOSE)


def test_clients_and_domains_are_means_over_the_seeds(plain: dict[str, list[Result]], plain_page: str) -> None:
    data = data_in(plain_page)
    maps, last, domains = (table_in(data, name) for name in ("maps", "last", "domains"))
    pair = [csv(run, "clients.csv").set_index(["round", "client"])["accuracy"] for run in plain["fedbn"]]
    for row in maps[maps["method"] == "FedBN"].itertuples():
        assert row.value == pytest.approx(np.mean([each[row.round, row.client] for each in pair]), rel=CLOSE)
    for row in last[last["method"] == "FedBN"].itertuples():
        assert row.accuracy == pytest.approx(np.mean([each[2, row.client] for each in pair]), rel=CLOSE)
    assert len(maps) == 2 * 6 * 3
    assert len(last) == 2 * 6
    final = csv(plain["fedavg"][0], "rounds.csv").set_index("round").loc[2]
    mine = domains[(domains["run"] == 0) & (domains["round"] == 2)].set_index(["whose", "domain"])["value"]
    assert mine["clients of the domain", "font"] == pytest.approx(final["client_domain_accuracy.font"], rel=CLOSE)
    assert mine["global model", "faded"] == pytest.approx(final["domain_accuracy.faded"], rel=CLOSE)


def test_a_table_of_clients_without_rows_or_classes_draws_nothing(plain: dict[str, list[Result]]) -> None:
    """As a damaged ``federation.csv`` may be, which is no reason to have no page."""
    (run, *_) = plain["fedbn"]
    assert run.federation is not None
    found = label_maps({"fedbn": [run]})
    assert found is not None
    assert found[0]["value"].sum() == run.federation["train"].sum()
    for damaged in (run.federation.head(0), run.federation[["client", "domain"]]):
        assert label_maps({"fedbn": [replace(run, federation=damaged)]}) is None


@pytest.mark.nightly
def test_what_only_some_runs_have_is_that_of_their_tables(rich: Result, rich_page: str) -> None:
    data = data_in(rich_page)
    labels, held = table_in(data, "labels"), csv(rich, "federation.csv").set_index("client")
    assert labels.set_index(["client", "class"])["value"].to_dict() == {
        (client, str(digit)): held.loc[client, f"train.{digit}"] for client in held.index for digit in range(10)
    }
    shots, rounds = table_in(data, "shots"), csv(rich, "rounds.csv").set_index("round")
    few = shots[(shots["predictor"] == "realigned") & (shots["shot"] == "few")].set_index("round")["value"]
    assert few.to_dict() == pytest.approx(rounds["realigned_few"].to_dict(), rel=CLOSE)
    classes, measured = table_in(data, "classes"), csv(rich, "classes.csv")
    final = measured[measured["round"] == 2].set_index("class")["accuracy"]
    mine = classes[classes["predictor"] == "plain"].set_index("class")
    assert {int(name): value for name, value in mine["value"].items()} == pytest.approx(final.to_dict(), rel=CLOSE)
    sizes = mine.sort_values("rank")["train_images"].tolist()
    assert sizes == sorted(sizes, reverse=True)
    diagnosed = table_in(data, "diagnostics").set_index(["round", "layer", "metric"])["value"].sort_index()
    expected = csv(rich, "diagnostics.csv").dropna().set_index(["round", "layer", "metric"])["value"].sort_index()
    assert diagnosed.to_dict() == pytest.approx(expected.to_dict(), rel=CLOSE)


def test_predictors_and_faults_are_those_of_the_summary_and_participation(rich: Result, rich_page: str) -> None:
    data, final = data_in(rich_page), rich.summary["final"]
    found = table_in(data, "predictors").set_index(["whose", "predictor"])["value"]
    assert found["clients", "plain"] == pytest.approx(final["client_accuracy_mean"], rel=CLOSE)
    assert found["clients", "masked"] == pytest.approx(final["masked_client_accuracy_mean"], rel=CLOSE)
    assert found["global model", "realigned"] == pytest.approx(final["realigned_global_accuracy"], rel=CLOSE)
    asked = csv(rich, "participation.csv")
    dropped = asked[asked["outcome"] == "drop_out"].groupby("client").size()
    assert len(dropped)
    mine = table_in(data, "faults")
    assert set(mine["fault"]) == {"drop out"}
    assert mine.set_index("client")["rounds"].to_dict() == dropped.to_dict()


def test_costs_are_those_of_all_rounds(plain: dict[str, list[Result]]) -> None:
    table = costs(plain)
    rounds = csv(plain["fedbn"][1], "rounds.csv")
    assert table["gflops"].iloc[3] == pytest.approx(rounds["device_gflops"].sum())
    assert table["memory"].iloc[3] == rounds["device_memory_mb"].max()
    assert table["megabytes"].iloc[3] == pytest.approx((rounds["bytes_up"].sum() + rounds["bytes_down"].sum()) / 1e6)


def test_without_participation_faults_are_what_clients_did_not_answer(rich: Result) -> None:
    table, clients = faults({"x": [replace(rich, participation=None)]})
    told = rich.clients["fault"].fillna("") != ""
    assert table["rounds"].sum() == told.sum() > 0
    assert set(table["fault"]) == {"no answer: train"}
    assert clients == rich.clients.loc[told, "client"].nunique()


def test_rounds_that_were_not_evaluated_are_left_out(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = read_result(make_run(tmp_path / "run", accuracy={"plain": 0.4, "font": 0.8}))
    curves = accuracy_curves({"x": [run]})
    assert curves["round"].tolist() == [0, 2]
    assert curves["seconds"].tolist() == [0.25, 0.75]  # those of the round between count
    assert curves["worst_client"].tolist() == pytest.approx([0.2, 0.4])
    assert domain_curves({"x": [run]}).empty
