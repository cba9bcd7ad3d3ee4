"""Each of the four seeds changes what it is named for and leaves the rest, and one seed sets them all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.fingerprint import Fingerprint
from fedsim.client.app_factory import ClientAppFactory
from fedsim.client.host import ClientHost
from fedsim.core.seeds import Seeds
from fedsim.engines.inline import InlineGrid
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings

WORDS = ("fraction=0.5", "strategy=pruned", "strategy.criterion=random", "split=iid", "split.num_clients=6")
KINDS = ("model", "split", "cohort", "batches")


def drawn(*words: str) -> dict[str, object]:
    """What each kind of seed decides, in a form that can be compared."""
    settings = small_settings("engine=inline", *WORDS, *words)
    prepared = prepare(settings)
    grid = InlineGrid(ClientAppFactory(settings, prepared.federation), 6, prepared.devices)
    weights = torch.cat([tensor.flatten().double() for tensor in prepared.model.state_dict().values()])
    masks = prepared.strategy.state().array_records["masks"]
    return {
        "model": (weights.tolist(), [bytes(array.data) for array in masks.values()]),
        "split": Fingerprint.of(prepared.federation).to_json(),
        "cohort": [prepared.strategy.cohort(round, grid) for round in range(1, 9)],  # type: ignore[attr-defined]
        "batches": ClientHost(settings, prepared.federation, prepared.devices[0]).seed,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_changes_what_it_is_named_for_and_nothing_else(kind: str) -> None:
    before, after, all_other = drawn(), drawn(f"seed_{kind}=7"), drawn("seed=7")
    for each in KINDS:
        assert (after[each] == before[each]) == (each != kind), each
    assert after[kind] == all_other[kind]


def test_one_seed_sets_them_all(tmp_path: Path) -> None:
    one_by_one = [f"seed_{kind}=3" for kind in KINDS]
    for name, words in (("one", ["seed=3"]), ("each", one_by_one)):
        run(prepare(small_settings("engine=inline", *WORDS, *words)), tmp_path / name, Reporter())
    for name in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()


def test_seeds_that_are_null_are_the_general_one() -> None:
    settings = replace(small_settings("seed=5"), seed_split=2, seed_batches=0)
    assert settings.seeds == Seeds(model=5, split=2, cohort=5, batches=0)
