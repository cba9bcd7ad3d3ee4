"""The random representation: what it draws in training, and what it says at evaluation."""

import pytest
import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.heads.stochastic import StochasticHead, draws_seen, stochastic_head, use_stochastic
from fedsim.models import CNN6
from fedsim.models.classifier import classifier_of


def test_at_evaluation_it_is_the_mean_probability_of_its_draws() -> None:
    torch.manual_seed(0)
    head = StochasticHead(6, 3, dimensions=4, samples=50).double().eval()
    features = torch.randn(5, 6, dtype=torch.float64)
    mean, deviation = head.distribution(features).chunk(2, 1)
    deviation = nn.functional.softplus(deviation)
    expected = torch.zeros(5, 3, dtype=torch.float64)
    for noise in head.noise:
        expected += head.classifier(mean + deviation * noise).softmax(1) / 50
    torch.testing.assert_close(head(features).exp(), expected)
    torch.testing.assert_close(head(features).exp().sum(1), torch.ones(5, dtype=torch.float64))
    # Neither the batch nor a seed decides.
    torch.testing.assert_close(head(features[2:3]), head(features)[2:3])


def test_many_draws_come_to_the_expected_probability() -> None:
    torch.manual_seed(0)
    few, many = (StochasticHead(6, 3, 4, samples) for samples in (20, 40_000))
    many.load_state_dict(few.state_dict())
    features = torch.randn(4, 6)
    many.train()
    with torch.no_grad():
        drawn = torch.stack([many(features).softmax(1) for _ in range(20_000)]).mean(0)
        torch.testing.assert_close(many.eval()(features).exp(), drawn, rtol=0, atol=0.01)


def test_what_is_drawn_is_seen_and_is_the_classifiers_input() -> None:
    torch.manual_seed(0)
    head = StochasticHead(6, 3, 4, 20)
    with draws_seen(head) as seen:
        logits = head(torch.randn(5, 6))
        head.eval()(torch.randn(5, 6))
    (drawn,) = seen
    torch.testing.assert_close(head.classifier(drawn.sample), logits)
    noise = (drawn.sample - drawn.mean) / drawn.deviation
    torch.manual_seed(0)
    StochasticHead(6, 3, 4, 20), torch.randn(5, 6)
    torch.testing.assert_close(noise, torch.randn(5, 4))


def test_it_takes_the_classifiers_place() -> None:
    model = use_stochastic(CNN6())
    head = stochastic_head(model)
    assert head is not None
    assert classifier_of(model, "a test") == ("head.classifier", head.classifier)
    features = head.distribution.in_features
    assert (head.distribution.out_features, head.classifier.in_features) == (2 * features, features)
    assert stochastic_head(CNN6()) is None


@pytest.mark.parametrize("options", [{"dimensions": 0}, {"samples": 0}])
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(
        UserError, match=rf"^head\.{key}={value} is not possible: choose a whole number of at least 1\.$"
    ):
        use_stochastic(CNN6(), **options)
