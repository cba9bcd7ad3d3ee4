"""Which methods the seeds can tell apart."""

import math

import pytest

from fedsim.report.significance import NO_TEST, against_best, sentences


def test_the_paired_t_test_is_that_of_the_textbook() -> None:
    a = {0: 0.90, 1: 0.85, 2: 0.88, 3: 0.91}
    b = {0: 0.88, 1: 0.86, 2: 0.85, 3: 0.87, 9: 0.99}  # a seed that is not shared does not count
    best, (comparison,) = against_best({"b": {**b, 9: 0.5}, "a": a})
    assert best == "a"
    differences = [b[seed] - a[seed] for seed in a]
    mean = sum(differences) / 4
    deviation = math.sqrt(sum((each - mean) ** 2 for each in differences) / 3)
    t = mean / (deviation / 2)
    # Student's distribution with three degrees of freedom has this closed form.
    angle = math.atan(abs(t) / math.sqrt(3))
    p = 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle))
    assert comparison.method == "b"
    assert comparison.seeds == 4
    assert comparison.difference == pytest.approx(mean)
    assert comparison.effect == pytest.approx(mean / deviation)
    assert comparison.p == pytest.approx(p)
    assert not comparison.told_apart


def test_what_cannot_be_told_apart_is_said_and_what_can_is_not_named() -> None:
    values = {
        "best": {0: 0.90, 1: 0.86, 2: 0.88},
        "near": {0: 0.88, 1: 0.87, 2: 0.86},
        "far": {0: 0.51, 1: 0.47, 2: 0.48},
    }
    told = "\n".join(sentences(values))
    assert told.startswith("best has the highest mean; not told apart from it")
    assert "near: -1.0 points" in told
    assert "far" not in told


def test_what_has_too_few_seeds_is_named_and_neither_best_nor_told_apart() -> None:
    tested = {"a": {0: 0.90, 1: 0.86, 2: 0.88}, "b": {0: 0.51, 1: 0.47, 2: 0.48}}
    untested = "  not tested, since they share fewer than 3 seeds with it: one, two"
    for value in (0.2, 0.99):
        told = sentences({**tested, "two": {0: value, 1: value}, "one": {0: value}})
        head = "a has the highest mean of those tested; every other one of them is told apart from it"
        assert told == [f"{head} (paired t-tests, p < 0.05)", untested]
    near = {"c": {0: 0.89, 1: 0.87, 2: 0.86}}
    told = sentences({**tested, **near, "two": {0: 1.0, 1: 1.0}, "one": {5: 1.0}})
    assert told[0].startswith("a has the highest mean of those tested; not told apart")
    assert told[-1] == untested
    assert len(told) == 3


def test_two_seeds_are_no_test_and_equal_runs_are_not_told_apart() -> None:
    assert sentences({"a": {0: 0.9, 1: 0.8}, "b": {0: 0.1, 1: 0.2}}) == [NO_TEST]
    assert sentences({"a": {0: 0.9, 1: 0.8}}) == []
    same = {0: 0.9, 1: 0.8, 2: 0.7}
    assert "not told apart" in sentences({"a": same, "b": dict(same)})[0]
    rounded_off = {0: 0.9 + 1e-16, 1: 0.8 + 1e-16, 2: 0.7 + 1e-16}
    assert rounded_off != same
    assert "not told apart" in sentences({"a": same, "b": rounded_off})[0]
    _, (lower,) = against_best({"a": same, "b": {seed: value - 0.5 for seed, value in same.items()}})
    assert lower.told_apart
