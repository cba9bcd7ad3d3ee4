"""Which methods the seeds can tell apart."""

import math

import pytest

from fedsim.report.significance import against_best, sentences


def test_the_paired_t_test_is_that_of_the_textbook() -> None:
    a = {0: 0.90, 1: 0.85, 2: 0.88, 3: 0.91}
    b = {0: 0.88, 1: 0.86, 2: 0.85, 3: 0.87, 9: 0.99}  # a seed that is not shared does not count
    found = against_best({"b": {**b, 9: 0.5}, "a": a})
    (comparison,) = found
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
        "few": {0: 0.2, 1: 0.1},
    }
    told = "\n".join(sentences(values))
    assert told.startswith("best has the highest mean; not told apart from it")
    assert "near: -1.0 points" in told
    assert "far" not in told
    assert "few" not in told  # of two seeds nothing can be said


def test_nothing_is_said_of_two_seeds_and_equal_runs_are_not_told_apart() -> None:
    assert sentences({"a": {0: 0.9, 1: 0.8}, "b": {0: 0.1, 1: 0.2}}) == []
    same = {0: 0.9, 1: 0.8, 2: 0.7}
    assert "not told apart" in sentences({"a": same, "b": dict(same)})[0]
    (lower,) = against_best({"a": same, "b": {seed: value - 0.5 for seed, value in same.items()}})
    assert lower.told_apart
