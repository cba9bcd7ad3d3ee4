"""Replies that must not reach an average or a table."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from datasets.build import build_federation
from datasets.source import Part
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.engines.grid import WrappedGrid
from fedsim.engines.inline import InlineGrid
from fedsim.messages.arrays import to_record
from fedsim.messages.compression import compress
from fedsim.messages.groups import ADDED_UP
from fedsim.messages.schema import (
    ARRAYS,
    CONFIG,
    EVALUATE,
    EVALUATE_GLOBAL,
    EVALUATE_PARTS,
    EVALUATION,
    METRICS,
    PART,
    QUERY,
    QUERY_METHOD,
    ROUND,
)
from fedsim.methods.client_state import PERSONAL, TRAINED
from fedsim.methods.reply_checks import ReplyChecks
from fedsim.methods.reply_records import no_arrays
from fedsim.methods.sparse.records import BN_STATISTICS, CANDIDATE_LOSS, GRADIENTS, GROW, PLACES, SQUARES, VALUES
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.fedsim.server.replies import GOOD, SENT, TESTED, TESTS, Content, fault, trained


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, None),
        ({PERSONAL: to_record({"head.weight": torch.ones(1, 2)}), TRAINED: ConfigRecord({ROUND: 3})}, None),
        (
            {PERSONAL: to_record({"head.weight": torch.ones(2, 1)})},
            r"it sent head\.weight as float32 \(2, 1\), which is",
        ),
        ({PERSONAL: to_record({"head.weight": torch.ones(1, 2).double()})}, r"it sent head\.weight as float64"),
        (
            {PERSONAL: to_record({"head.weight": torch.tensor([[1, torch.nan]])})},
            r"numbers in head\.weight that are not",
        ),
        ({PERSONAL: to_record({"tail": torch.ones(1)})}, r"it sent 'tail', which the model does not have"),
        (
            {PERSONAL: ArrayRecord({"head.weight": Array("float32", (1, 2), "npy", b"no")})},
            r"it sent what cannot be read",
        ),
        ({TRAINED: ConfigRecord({ROUND: "soon"})}, r"it says that it has trained in round 'soon'"),
    ],
)
def test_what_a_client_tells_of_its_own_part_is_checked(checks: ReplyChecks, told: Content, words: str | None) -> None:
    found = checks.state_fault(RecordDict(told))
    assert (found is None) if words is None else re.search(words, found or "")


class OfTheirOwn(WrappedGrid):
    """Devices tell their personal part, and one of them nonsense."""

    def passed(self, message: Message, reply: Message) -> Message:
        return reply

    def client_states(self) -> dict[int, RecordDict] | None:
        states = super().client_states()
        assert states is not None
        return {**states, 2: RecordDict({PERSONAL: to_record({"features.1.weight": torch.ones(3)})})}


class Said(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_device_whose_own_part_is_nonsense_ends_no_run(
    small_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    prepared = prepare(small_settings("strategy=fedbn", "rounds=1"))
    grid = OfTheirOwn(InlineGrid(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices))
    said = Said()
    result = run(prepared, tmp_path, said, grid)
    words = "there is no global model for now: of client 2's own part, it sent features.1.weight as float32 (3,), which"
    assert any(words in line for line in said.lines)
    assert "client_accuracy_mean" in result.summary["final"]
    assert "global_accuracy" not in result.summary["final"]
    assert (tmp_path / "shared.safetensors").exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_what_training_does_is_let_through(checks: ReplyChecks) -> None:
    assert fault(checks, trained({"head.weight": torch.tensor([[0.4, -2.1]]), "seen": torch.tensor(9)})) is None
    assert fault(checks, trained({"head.weight": torch.tensor([[2000.0, -2.0]])})) is None  # moved by 1999.5 of 2000
    asked = {EVALUATE_PARTS: ["TEST"]}
    assert fault(checks, trained(**{EVALUATION + "TEST": MetricRecord(TESTED)}), **asked) is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"head.weight": torch.tensor([[0.5, float("nan")]])}, "numbers in head.weight that are not finite"),
        ({"head.weight": torch.tensor([[0.5, -float("inf")]])}, "numbers in head.weight that are not finite"),
        ({"head.weight": torch.tensor([0.5])}, r"head.weight as float32 \(1,\), which is float32 \(1, 2\)"),
        ({"head.weight": SENT["head.weight"].double()}, r"as float64 \(1, 2\), which is float32 \(1, 2\)"),
        ({"v": SENT["head.weight"]}, r"other entries than it was sent \(v\)"),
        ({"head.weight": torch.tensor([[0.5e6, -2.0]])}, "head.weight by 5e\\+05, where update_limit=1000 allows 2e"),
        ({"seen": torch.tensor(2**63 - 1)}, "moved a number in seen"),
        ({"seen": torch.tensor(2)}, "moved a number in seen"),
    ],
)
def test_wrong_arrays_are_refused(checks: ReplyChecks, arrays: dict[str, torch.Tensor], words: str) -> None:
    found = fault(checks, trained(arrays))
    assert found is not None
    assert re.search(words, found), found


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({CONFIG: ConfigRecord({ROUND: 3})}, "answered for round 3 in round 4"),
        ({CONFIG: ConfigRecord()}, "answered for round None in round 4"),
        ({CONFIG: ConfigRecord({ROUND: 4, ADDED_UP: True})}, "it says that it is part of a sum"),
        ({CONFIG: MetricRecord({ROUND: 4})}, "its config is not of the form that it should be"),
        ({METRICS: MetricRecord({**GOOD, "num-examples": 41})}, "says that it has 41 images, which are 40"),
        ({METRICS: MetricRecord({**GOOD, "num-examples": 1e308})}, "says that it has 1e+308 images"),
        ({METRICS: MetricRecord({**GOOD, "num-examples": float("nan")})}, "says that it has nan images"),
        ({METRICS: MetricRecord({"loss": 0.5})}, "it sent no num-examples"),
        ({METRICS: MetricRecord({**GOOD, "loss": float("nan")})}, "its loss is not finite"),
        ({METRICS: MetricRecord({**GOOD, "loss": [0.5, 0.5]})}, "it sent no loss"),
        ({METRICS: ConfigRecord()}, "it sent no metrics"),
        ({"more": MetricRecord({"a": 1})}, "a record called 'more', which nobody asked for"),
        ({EVALUATION + "TEST": MetricRecord(TESTED)}, "a record called 'evaluation-TEST', which nobody asked for"),
        ({SQUARES: to_record({"head": SENT["head.weight"]})}, "squared gradients that nobody asked for"),
        ({GRADIENTS: to_record({"head/places": torch.tensor([0])})}, "gradients of other layers than it was asked"),
    ],
)
def test_wrong_words_are_refused(checks: ReplyChecks, more: Content, words: str) -> None:
    assert words in str(fault(checks, trained(**more)))


def test_bytes_that_are_no_array_do_not_end_the_run(checks: ReplyChecks) -> None:
    record = ArrayRecord()
    record["head.weight"] = Array("float32", (1, 2), "numpy.ndarray", b"garbage")
    record["seen"] = to_record(SENT)["seen"]
    assert "it sent what cannot be read (ValueError" in str(fault(checks, trained(**{ARRAYS: record})))


def test_the_order_of_records_hides_nothing(checks: ReplyChecks) -> None:
    """A good evaluation before bad metrics is not taken for them."""
    bad = MetricRecord({**GOOD, "num-examples": float("nan")})
    content = {EVALUATION + "TEST": MetricRecord(TESTED), **trained(**{METRICS: bad})}
    assert "nan images" in str(fault(checks, content, **{EVALUATE_PARTS: ["TEST"]}))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({**TESTED, "num-examples": 0}, "tested on 0 images"),
        ({**TESTED, "num-examples": 21}, "tested on 21 images"),
        ({**TESTED, "correct": 5000}, "5000 of 20 images are right"),
        ({**TESTED, "masked-correct": -1, "masked-loss": 1.0}, "-1 of 20 images are right"),
        ({**TESTED, "loss": float("inf")}, "no loss that is a finite number"),
        ({"num-examples": TESTS, "loss": 1.0}, "no loss that is a finite number"),
        ({**TESTED, "correct-by-class": [1, 2]}, "its correct-by-class is not of the form"),
        ({**TESTED, "correct": [1]}, "its correct is not of the form"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(
    checks: ReplyChecks, told: dict[str, float | list[int]], words: str
) -> None:
    assert words in str(fault(checks, {METRICS: MetricRecord(told)}, EVALUATE, **{PART: "TEST"}))
    folded = trained(**{EVALUATION + "TEST": MetricRecord(told)})
    assert words in str(fault(checks, folded, **{EVALUATE_PARTS: ["TEST"]}))
    assert "sent no evaluation-TEST" in str(fault(checks, trained(), **{EVALUATE_PARTS: ["TEST"]}))


def test_a_loss_may_be_infinite_where_a_class_is_masked(checks: ReplyChecks) -> None:
    told = MetricRecord({**TESTED, "masked-correct": 3, "masked-loss": float("inf")})
    assert fault(checks, {METRICS: told}, EVALUATE, **{PART: "TEST"}) is None


def test_the_global_model_is_counted_by_class(checks: ReplyChecks) -> None:
    right = {"correct-by-class": [1] * 10, "examples-by-class": [2] * 10}
    assert fault(checks, {METRICS: MetricRecord({**TESTED, **right})}, EVALUATE_GLOBAL) is None
    wrong = {"correct-by-class": [1] * 9, "examples-by-class": [2] * 10}
    assert "not counts of 10 classes" in str(
        fault(checks, {METRICS: MetricRecord({**TESTED, **wrong})}, EVALUATE_GLOBAL)
    )


def sums_of(right: int, images: int = TESTS) -> dict[str, list[float]]:
    """What a client counts that is sure of everything and has so many right, all of one class."""
    bins = [0.0] * 14 + [float(images)] + [0.0] * 14 + [float(images)] + [0.0] * 14 + [float(right)]
    return {"ece-sums": bins, "balanced_accuracy-sums": [float(images), *[0.0] * 9, float(right), *[0.0] * 9]}


def test_sums_that_were_asked_for_are_let_through(asked: ReplyChecks) -> None:
    told = MetricRecord({**TESTED, **sums_of(7)})
    assert fault(asked, {METRICS: told}, EVALUATE, **{PART: "TEST"}) is None
    assert fault(asked, trained(**{EVALUATION + "TEST": told}), **{EVALUATE_PARTS: ["TEST"]}) is None
    by_class = {"correct-by-class": [1] * 10, "examples-by-class": [2] * 10}
    assert fault(asked, {METRICS: MetricRecord({**told, **by_class})}, EVALUATE_GLOBAL) is None
    masked = {"masked-correct": 7, "masked-loss": float("inf")}
    assert "sent no masked-balanced_accuracy-sums" in str(
        fault(asked, {METRICS: MetricRecord({**told, **masked})}, EVALUATE, **{PART: "TEST"})
    )
    masked |= {f"masked-{name}": sums for name, sums in sums_of(7).items()}  # type: ignore[misc]
    assert fault(asked, {METRICS: MetricRecord({**told, **masked})}, EVALUATE, **{PART: "TEST"}) is None


@pytest.fixture
def asked(checks: ReplyChecks) -> ReplyChecks:
    return replace(checks, metrics=["balanced_accuracy", "ece"])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"ece-sums": None}, "sent no ece-sums"),
        ({"ece-sums": 1.0}, "sent no ece-sums"),
        ({"ece-sums": [1.0] * 44}, "its ece-sums are not 45 finite numbers"),
        ({"ece-sums": [float("nan")] * 45}, "its ece-sums are not 45 finite numbers"),
        ({"ece-sums": [float("inf")] * 45}, "its ece-sums are not 45 finite numbers"),
        (
            {"ece-sums": sums_of(21)["ece-sums"]},
            "its ece-sums say that more images of a group are right than there are",
        ),
        ({"ece-sums": sums_of(7, 2000)["ece-sums"]}, "its ece-sums are not over 20 images"),
        (
            {"ece-sums": [*[0.0] * 14, 20.0, *[0.0] * 30]},
            "its ece-sums have a confidence of 0 for 20 images between 0.9",
        ),
        ({"balanced_accuracy-sums": [0.5] * 20}, "its balanced_accuracy-sums are not counts of images"),
        ({"balanced_accuracy-sums": [2.0] * 10}, "its balanced_accuracy-sums are not 20 finite numbers"),
        ({"brier-sums": [1.0]}, "it sent 'brier-sums', which nobody asked for"),
        ({"brier-sums": 1.0}, "it sent 'brier-sums', which nobody asked for"),
        ({"masked-ece-sums": sums_of(7)["ece-sums"]}, "it sent 'masked-ece-sums', which nobody asked for"),
    ],
)
def test_sums_that_cannot_be_are_refused(
    asked: ReplyChecks, told: dict[str, float | list[float] | None], words: str
) -> None:
    changed = {name: value for name, value in {**TESTED, **sums_of(7), **told}.items() if value is not None}
    record = MetricRecord(changed)  # type: ignore[arg-type]
    assert words in str(fault(asked, {METRICS: record}, EVALUATE, **{PART: "TEST"}))
    assert words in str(fault(asked, trained(**{EVALUATION + "TEST": record}), **{EVALUATE_PARTS: ["TEST"]}))


def test_sums_that_nobody_asked_for_are_refused(checks: ReplyChecks) -> None:
    record = MetricRecord({**TESTED, **sums_of(7)})
    words = "it sent 'ece-sums', which nobody asked for"
    assert words in str(fault(checks, {METRICS: record}, EVALUATE, **{PART: "TEST"}))


@pytest.mark.parametrize(
    ("places", "values", "words"),
    [
        ([1], [0.5], None),
        ([], [], None),
        ([2], [0.5], "the gradient of a weight that head does not have"),
        ([-1], [0.5], "the gradient of a weight that head does not have"),
        ([0, 1], [0.5, 0.5], "in another form than it was asked for"),
        ([0], [0.5, 0.5], "in another form than it was asked for"),
        ([0], [float("nan")], "not finite"),
    ],
)
def test_gradients_are_of_weights_that_there_are(
    checks: ReplyChecks, places: list[int], values: list[float], words: str | None
) -> None:
    told = {f"head{PLACES}": torch.tensor(places, dtype=torch.int64), f"head{VALUES}": torch.tensor(values)}
    found = fault(checks, trained(**{GRADIENTS: to_record(told)}), **{GROW + "head": 1})
    assert found is None if words is None else words in str(found)


def test_answers_before_training_are_looked_at_too(checks: ReplyChecks) -> None:
    def told(weight: torch.Tensor, images: float = 4) -> str | None:
        content: Content = {METRICS: MetricRecord({"num-examples": images}), ARRAYS: to_record({"head.weight": weight})}
        return fault(checks, content, QUERY_METHOD, **{QUERY: BN_STATISTICS})

    assert told(torch.ones(1, 2)) is None
    assert "not finite" in str(told(torch.full((1, 2), float("nan"))))
    assert "sent head.weight as" in str(told(torch.ones(3)))
    assert "asked 41 images" in str(told(torch.ones(1, 2), 41))
    content: Content = {
        METRICS: MetricRecord({"num-examples": 4}),
        ARRAYS: to_record({"nothing": torch.ones(1)}),
    }
    told_of_nothing = fault(checks, content, QUERY_METHOD, **{QUERY: BN_STATISTICS})
    assert "it sent 'nothing', which the model does not have" in str(told_of_nothing)
    undeclared = fault(checks, content, QUERY_METHOD, **{QUERY: CANDIDATE_LOSS})
    assert "cannot be read (KeyError" in str(undeclared)


def test_an_answer_that_is_to_have_metrics_alone_brings_no_arrays(checks: ReplyChecks) -> None:
    checks = replace(checks, queries={CANDIDATE_LOSS: no_arrays})
    content: Content = {METRICS: MetricRecord({"num-examples": 4, "loss": 0.5})}
    assert fault(checks, content, QUERY_METHOD, **{QUERY: CANDIDATE_LOSS}) is None
    content[ARRAYS] = to_record(SENT)
    found = fault(checks, content, QUERY_METHOD, **{QUERY: CANDIDATE_LOSS})
    assert "it sent arrays of other entries than it was asked for" in str(found)


def test_what_the_method_does_not_declare_is_refused(checks: ReplyChecks) -> None:
    content = trained(**{SQUARES: to_record({"head": SENT["head.weight"]})})
    assert fault(checks, content, **{SQUARES: True}) is None
    plain = replace(checks, reply_records={})
    words = "a record called 'squares', which nobody asked for"
    assert words in str(fault(plain, content, **{SQUARES: True}))


def test_a_compressed_reply_is_checked_as_what_it_stands_for(checks: ReplyChecks) -> None:
    def found(weight: float) -> str | None:
        told = {**SENT, "head.weight": torch.tensor([[weight, -2.0]])}
        compressed = to_record(compress("int8", SENT, told, RecordDict()))
        return fault(checks, trained(**{ARRAYS: compressed}), compression="int8")

    assert found(0.6) is None
    assert "not finite" in str(found(float("nan")))
    assert "which compression=int8 needs" in str(fault(checks, trained(), compression="int8"))


def test_an_evaluation_counts_the_images_of_its_part(small_settings: Callable[..., Settings]) -> None:
    checks = ReplyChecks(build_federation(small_settings("split.validation=0.25")), SENT)
    for part, images in ((Part.TEST, 20), (Part.VALIDATION, 10)):
        for told in (10, 20):
            content: Content = {METRICS: MetricRecord({**TESTED, "num-examples": told})}
            found = fault(checks, content, EVALUATE, **{PART: part.name})
            assert (found is None) == (told == images)
    assert fault(checks, {METRICS: MetricRecord(TESTED)}, EVALUATE) is None  # of tests, where nothing is said


def test_none_and_all_may_be_right_of_a_single_image_and_of_many(checks: ReplyChecks) -> None:
    for correct in (0, 20):
        assert fault(checks, {METRICS: MetricRecord({**TESTED, "correct": correct})}, EVALUATE) is None
    single = {"num-examples": 1, "correct": 1, "loss": 0.5}
    by_class = {"correct-by-class": [1] + [0] * 9, "images-by-class": [1] + [0] * 9}
    assert fault(checks, {METRICS: MetricRecord({**single, **by_class})}, EVALUATE_GLOBAL) is None
    for examples in (0, float("inf")):
        wrong = {**single, "correct": 0, "num-examples": examples}
        assert fault(checks, {METRICS: MetricRecord(wrong)}, EVALUATE_GLOBAL) is not None
