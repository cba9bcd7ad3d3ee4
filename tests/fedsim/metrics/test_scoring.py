"""What a client answers when it is evaluated, counted again with plain loops."""

import pytest
import torch
from torch import nn

from clients import LocalSGD
from datasets.examples import Examples
from fedsim.methods.interfaces import PLAIN, ClientContext
from fedsim.methods.training import LocalTraining
from fedsim.metrics.scoring import joined, predictor_of, score, under

CLASSES = 4


class Two(LocalSGD):
    """Predicts, beside the model's logits, their reverse."""

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        logits = model(images)
        return {PLAIN: logits, "reversed": logits.flip(1)}


@pytest.fixture
def data() -> Examples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1100, 1, 2, 2), dtype=torch.uint8, generator=generator)  # three batches
    return Examples(images, torch.randint(0, CLASSES - 1, (1100,), generator=generator))  # nobody has the last class


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))


def logits_of(model: nn.Module, data: Examples) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(data.images.float() / 127.5 - 1)
    return logits


def trainer(kind: type[LocalSGD]) -> LocalSGD:
    return kind(LocalTraining(1, 10, 0.1, 0.0))


def test_a_score_counts_images_and_leaves_the_model_as_it_was(model: nn.Module, data: Examples) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = score(trainer(LocalSGD), model.train(), data, ClientContext())
    logits = logits_of(model, data)
    assert scores == {
        "num-examples": 1100,
        "correct": sum(int(row.argmax()) == int(label) for row, label in zip(logits, data.labels, strict=True)),
        "loss": pytest.approx(nn.functional.cross_entropy(logits, data.labels).item(), rel=1e-5),
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_global_model_is_counted_class_by_class(model: nn.Module, data: Examples) -> None:
    scores = score(trainer(Two), model, data, ClientContext(own=False))
    predicted = logits_of(model, data).argmax(1)
    for key, chosen in (("correct-by-class", predicted), ("reversed-correct-by-class", CLASSES - 1 - predicted)):
        assert scores[key] == [int(((chosen == c) & (data.labels == c)).sum()) for c in range(CLASSES)]
    assert scores["examples-by-class"] == [int((data.labels == c).sum()) for c in range(CLASSES)]
    assert scores["examples-by-class"][-1] == 0  # type: ignore[index]


def test_a_masked_predictor_chooses_among_the_classes_that_are_held(model: nn.Module, data: Examples) -> None:
    held = torch.tensor([True, False, True, False])
    scores = score(trainer(Two), model, data, ClientContext(), held=held)
    logits = logits_of(model, data)
    for name, all_logits in (("masked", logits), ("reversed_masked", logits.flip(1))):
        best = [max((0, 2), key=lambda c, row=row: row[c]) for row in all_logits]  # type: ignore[misc]
        hits = sum(one == int(label) for one, label in zip(best, data.labels, strict=True))
        assert scores[f"{name}-correct"] == hits
        assert scores[f"{name}-correct"] != scores["correct"]
        assert scores[f"{name}-loss"] == torch.inf  # some labels cannot be chosen


def test_names_of_predictors_are_put_together_and_found_again() -> None:
    assert (joined("adapted", ""), joined("adapted", "realigned"), joined("", "x")) == (
        *("adapted", "adapted_realigned"),
        "x",
    )
    assert predictor_of("loss") == ("", "loss")
    assert predictor_of("realigned_masked-correct-by-class") == ("realigned_masked", "correct-by-class")
    with pytest.raises(ValueError, match="num-examples is not a score of a predictor"):
        predictor_of("num-examples")
    renamed = under("adapted", {"num-examples": 3, "correct": 2, "realigned-correct": 1, "examples-by-class": [3]})
    assert renamed == {"adapted-correct": 2, "adapted_realigned-correct": 1}
