"""Test images are adapted to in batches, and every prediction that a method makes of a batch is of all its images."""

from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path

import pytest

from datasets.examples import EVALUATION_BATCH, evaluation_batches
from datasets.federation import Federation
from datasets.source import Part
from fedsim.config.settings import Settings
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run


@pytest.mark.parametrize("most", [1, 3, 64, 600])
@pytest.mark.parametrize("examples", [0, 1, 12, 512, 1100])
def test_batches_are_equally_large_and_mixed_parts_of_those_without_adaptation(examples: int, most: int) -> None:
    batches = [batch.tolist() for batch in evaluation_batches(examples, most)]
    assert sorted(chain(*batches)) == list(range(examples))
    for whole in evaluation_batches(examples):
        parts = [batch for batch in batches if set(batch) <= set(whole.tolist())]
        sizes = [len(part) for part in parts]
        assert sum(sizes) == len(whole)
        assert max(sizes) <= min(most, EVALUATION_BATCH)
        assert max(sizes) - min(sizes) <= 1
        assert len(parts) == -(-len(whole) // min(most, EVALUATION_BATCH))
        for part in parts:
            assert len({later - earlier for earlier, later in pairwise(part)}) <= 1


@pytest.mark.parametrize(
    ("strategy", "others"),
    [("fedavg", []), ("creff", ["trained"]), ("fedproto", ["prototypes"]), ("fedrod", ["generic"]),
     ("fedloge head.steps=1", ["realigned"])],
)  # fmt: skip
def test_an_adaptation_that_changes_nothing_leaves_every_prediction_as_it_is(
    strategy: str, others: list[str], small_settings: Callable[..., Settings], federation: Federation, tmp_path: Path
) -> None:
    words = (*f"strategy={strategy}".split(), "tta=alpha_bn", "tta.alpha=0", "tta.batch_size=7")
    settings = small_settings(*words, "rounds=1", "engine=inline", "pictures=false")
    assert min(federation.num_images(client, Part.TEST) for client in federation.clients) > 2 * 7
    clients = run(prepare(settings, federation), tmp_path, Reporter()).clients
    for name in ("", *(f"{other}_" for other in others)):
        plain, adapted = clients[f"{name}accuracy"], clients[f"adapted_{name}accuracy"]
        assert plain.notna().any()
        assert adapted.tolist() == pytest.approx(plain.tolist(), nan_ok=True), name
