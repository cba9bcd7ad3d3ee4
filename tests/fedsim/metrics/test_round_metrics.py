"""The numbers of a round, computed by hand for three clients of two domains."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from datasets.federation import MIXED, Federation
from fedsim.metrics.measured import Evaluation, Measured, pool
from fedsim.metrics.round_metrics import (
    age_metrics,
    best_row,
    client_mean_by_domain,
    client_rows,
    evaluated,
    fault_rows,
    nested,
    predictors_in,
    round_metrics,
)

EVALUATION = Evaluation(
    clients={0: Measured(10, 9, 0.5), 1: Measured(20, 10, 1.0), 2: Measured(50, 35, 0.75)},  # accuracies 0.9, 0.5, 0.7
    domains={"domain0": Measured(60, 45, 0.4), "domain1": Measured(20, 5, 1.6)},
)


@pytest.fixture
def federation(make_federation: Callable[..., Federation]) -> Federation:
    return make_federation(3)


def test_every_number_of_a_round_is_the_one_computed_by_hand(federation: Federation) -> None:
    variance = ((0.9 - 0.7) ** 2 + (0.5 - 0.7) ** 2 + 0) / 3  # the population's
    assert round_metrics(EVALUATION, federation) == pytest.approx(
        {
            "global_accuracy": 50 / 80,
            "global_loss": (0.4 * 60 + 1.6 * 20) / 80,
            "client_accuracy_mean": (0.9 + 0.5 + 0.7) / 3,
            "client_accuracy_weighted": (9 + 10 + 35) / 80,
            "client_accuracy_std": variance**0.5,
            "client_accuracy_worst": 0.5,
            "domain_accuracy.domain0": 45 / 60,
            "domain_accuracy.domain1": 5 / 20,
            "client_domain_accuracy.domain0": (0.9 + 0.7) / 2,  # clients 0 and 2, whatever their sizes
            "client_domain_accuracy.domain1": 0.5,
        },
        rel=1e-12,
    )


def test_numbers_are_pythons_own(federation: Federation) -> None:
    assert {type(value) for value in round_metrics(EVALUATION, federation).values()} == {float}


def test_there_is_a_row_for_every_client(federation: Federation) -> None:
    rows = client_rows(EVALUATION, federation, round=4)
    assert [(row["round"], row["client"], row["domain"]) for row in rows] == [
        (4, 0, "domain0"),
        (4, 1, "domain1"),
        (4, 2, "domain0"),
    ]
    where = {"round": 4, "client": 1, "domain": "domain1", "split": "test"}
    assert rows[1] == {**where, "num_examples": 20, "loss": 1.0, "accuracy": 0.5}


def test_pooling_counts_every_image_once() -> None:
    pooled = pool(measured for measured in EVALUATION.clients.values())
    assert (pooled.num_examples, pooled.correct) == (80, 54)
    assert pooled.accuracy == 54 / 80
    assert pooled.loss == pytest.approx((5 + 20 + 37.5) / 80)


def test_a_domain_without_an_evaluated_client_has_no_mean(federation: Federation) -> None:
    assert client_mean_by_domain({1: Measured(20, 10, 1.0)}, federation) == {"domain1": 0.5}


def test_names_with_a_dot_are_nested_once() -> None:
    assert nested({"a": 1, "b.x": 2, "c": 3, "b.y.z": 4}) == {"a": 1, "b": {"x": 2, "y.z": 4}, "c": 3}


def test_the_best_round_is_the_earliest_of_equals_and_was_evaluated() -> None:
    rows = [
        {"round": 0, "client_accuracy_mean": 0.1},
        {"round": 1},
        {"round": 2, "client_accuracy_mean": 0.8},
        {"round": 3, "client_accuracy_mean": None},
        {"round": 4, "client_accuracy_mean": 0.8},
        {"round": 5, "client_accuracy_mean": 0.7},
    ]
    assert [row["round"] for row in evaluated(rows)] == [0, 2, 4, 5]
    assert best_row(rows)["round"] == 2
    assert best_row(reversed(rows))["round"] == 2


def test_validation_and_domains_that_were_left_out_are_numbers_of_their_own(federation: Federation) -> None:
    more = replace(
        EVALUATION,
        unseen={"elsewhere": Measured(10, 2, 3.0)},
        validation={0: Measured(4, 1, 0.1), 2: Measured(2, 2, 0.2)},  # client 1 has no validation images
    )
    plain, extended = round_metrics(EVALUATION, federation), round_metrics(more, federation)
    added = {"unseen_accuracy.elsewhere": 0.2, "validation_accuracy_mean": (0.25 + 1) / 2}
    assert extended == {**plain, **added}  # global accuracy too is what it was
    rows = client_rows(more, federation, round=1)
    assert [(row["client"], row["split"]) for row in rows[3:]] == [(0, "validation"), (2, "validation")]
    assert rows[3]["accuracy"] == 0.25


def test_adapted_models_have_numbers_of_their_own_beside_the_plain_ones(federation: Federation) -> None:
    def with_adapted(measured: Measured, correct: int) -> Measured:
        return replace(measured, others={"adapted": Measured(measured.num_examples, correct, 0.1)})

    clients = {
        each: with_adapted(tested, right)
        for (each, tested), right in zip(EVALUATION.clients.items(), (8, 15, 10), strict=True)
    }
    domains = {
        name: with_adapted(tested, right)
        for (name, tested), right in zip(EVALUATION.domains.items(), (3, 7), strict=True)
    }
    unseen = {"elsewhere": replace(Measured(10, 2, 3.0), others={"adapted": Measured(10, 6, 1.0)})}
    adapted = replace(EVALUATION, clients=clients, domains=domains, unseen=unseen)
    sizes = {name: tested.num_examples for name, tested in domains.items()}
    plain, extended = round_metrics(EVALUATION, federation), round_metrics(adapted, federation)
    accuracy = [8 / clients[0].num_examples, 15 / clients[1].num_examples, 10 / clients[2].num_examples]
    assert {name: value for name, value in extended.items() if "adapted" not in name} == {
        **plain,
        "unseen_accuracy.elsewhere": 0.2,
    }
    assert {name: value for name, value in extended.items() if "adapted" in name} == pytest.approx(
        {
            "adapted_client_accuracy_mean": sum(accuracy) / 3,
            "adapted_client_accuracy_worst": min(accuracy),
            "adapted_global_accuracy": 10 / sum(sizes.values()),
            "adapted_client_domain_accuracy.domain0": (accuracy[0] + accuracy[2]) / 2,
            "adapted_client_domain_accuracy.domain1": accuracy[1],
            "adapted_domain_accuracy.domain0": 3 / sizes["domain0"],
            "adapted_domain_accuracy.domain1": 7 / sizes["domain1"],
            "adapted_unseen_accuracy.elsewhere": 0.6,
        }
    )
    assert [row["adapted_accuracy"] for row in client_rows(adapted, federation, round=1)] == accuracy


def test_clients_of_several_domains_have_a_mean_of_their_own(federation: Federation) -> None:
    partitions = [replace(partition, domain=None) for partition in federation.partitions]
    means = client_mean_by_domain(EVALUATION.clients, Federation(federation.source, partitions))
    assert means == pytest.approx({MIXED: (0.9 + 0.5 + 0.7) / 3})


def test_the_best_round_is_chosen_by_validation_where_there_is_any() -> None:
    rows = [
        {"round": 0, "client_accuracy_mean": 0.9, "validation_accuracy_mean": 0.3},
        {"round": 1, "client_accuracy_mean": 0.2, "validation_accuracy_mean": 0.6},
        {"round": 2, "client_accuracy_mean": 0.4, "validation_accuracy_mean": 0.6},
    ]
    assert best_row(rows)["round"] == 1


def test_a_further_metric_is_told_of_every_predictor_and_only_where_it_is_defined(federation: Federation) -> None:
    """Balanced accuracy of two classes, whose sums are images and correct ones of each; of no images it has none."""

    def measured(*sums: float, adapted: tuple[float, ...] = (2, 2, 1, 1)) -> Measured:
        def of(numbers: tuple[float, ...]) -> Measured:
            return Measured(4, 2, 1.0, sums={"balanced_accuracy": numbers})

        return replace(of(sums), others={"adapted": of(adapted)})

    nothing = (0.0, 0.0, 0.0, 0.0)
    evaluation = Evaluation(
        clients={
            0: measured(2, 2, 2, 0, adapted=(2, 2, 2, 2)),
            1: measured(*nothing, adapted=nothing),
            2: measured(4, 0, 1, 0),
        },
        domains={"domain0": measured(3, 1, 3, 0), "domain1": measured(1, 3, 0, 3, adapted=nothing)},
        unseen={"elsewhere": measured(2, 2, 1, 2, adapted=(1, 3, 0, 1))},
        validation={0: measured(2, 2, 0, 1), 1: measured(*nothing)},
    )
    row = round_metrics(evaluation, federation)
    assert {name: value for name, value in row.items() if "balanced_accuracy" in name} == {
        "client_balanced_accuracy_mean": (1 / 2 + 1 / 4) / 2,
        "client_domain_balanced_accuracy.domain0": (1 / 2 + 1 / 4) / 2,
        "adapted_client_balanced_accuracy_mean": (1 + 1 / 2) / 2,
        "adapted_client_domain_balanced_accuracy.domain0": (1 + 1 / 2) / 2,
        "global_balanced_accuracy": (3 / 4 + 3 / 4) / 2,
        "domain_balanced_accuracy.domain0": (1 + 0) / 2,
        "domain_balanced_accuracy.domain1": (0 + 1) / 2,
        "unseen_balanced_accuracy.elsewhere": (1 / 2 + 1) / 2,
        "adapted_global_balanced_accuracy": 1 / 2,
        "adapted_domain_balanced_accuracy.domain0": 1 / 2,
        "adapted_domain_balanced_accuracy.domain1": None,
        "adapted_unseen_balanced_accuracy.elsewhere": (0 + 1 / 3) / 2,
        "validation_balanced_accuracy_mean": (0 + 1 / 2) / 2,
    }
    assert predictors_in(row) == ["", "adapted"]
    alone = replace(
        evaluation, clients={1: evaluation.clients[1]}, domains={}, unseen={}, validation={1: evaluation.validation[1]}
    )
    undefined = round_metrics(alone, federation)
    assert {name: value for name, value in undefined.items() if "balanced_accuracy" in name} == {
        "client_balanced_accuracy_mean": None,
        "adapted_client_balanced_accuracy_mean": None,
        "validation_balanced_accuracy_mean": None,
    }


def test_ages_have_a_mean_and_a_maximum_where_there_are_any() -> None:
    assert age_metrics([1, 4, 1]) == {"personal_age_mean": 2.0, "personal_age_max": 4}
    assert age_metrics([]) == {}


def test_a_fault_has_a_row_whoever_is_named(federation: Federation) -> None:
    faults = [(1, "train", "it sent nothing"), (99, "test", "gone")]
    assert fault_rows(faults, federation, round=3) == [
        {"round": 3, "client": 1, "domain": "domain1", "split": "train", "fault": "it sent nothing"},
        {"round": 3, "client": 99, "domain": "", "split": "test", "fault": "gone"},
    ]
