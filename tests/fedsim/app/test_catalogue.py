"""``docs/strategies.md`` and its table: made by the program, and in accordance with what the methods send now."""

import pytest
from torch import nn

from fedsim.app.catalogue import COMMAND, PAGE, main, measured, names_of_every_method, page, played, told
from fedsim.config.listing import METHODS, TRAFFIC, read_traffic
from fedsim.config.reference import choices, default_of
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import Tensors
from fedsim.models import CNN6
from tests.methods import some_by_day

ROWS = read_traffic()
SMALL = ("model=cnn_small", "split.leave_out=[faded,texture,street,font]", "device=cpu")


def bytes_of(tensors: Tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_the_page_is_what_the_program_makes_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), f"docs/strategies.md is not that of this tree: run {COMMAND}"
    assert main([]) == 0
    assert capsys.readouterr().out == page()


def test_the_page_names_every_method() -> None:
    text = page()
    for choice in choices(METHODS):
        assert f"\n* `{choice}`: " in text
        assert ("/" in choice) != (f"\n| `{choice}` | " in text)
    scaffold = next(line for line in text.splitlines() if line.startswith("| `scaffold`"))
    assert scaffold == "| `scaffold` | model; control both ways | control | 113.78 | 113.78 |  |"


def test_the_bytes_are_those_of_the_tensors() -> None:
    """Of FedBN's network for digits: everything; without BatchNorm; and with a number beside each parameter."""
    network = CNN6(num_classes=10, image_shape=(3, 28, 28))
    whole = network.state_dict()
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    plain = {name: tensor for name, tensor in whole.items() if name.rpartition(".")[0] not in norms}
    parameters = sum(4 * parameter.numel() for parameter in network.parameters())
    assert ROWS["fedavg"].bytes_down == ROWS["fedavg"].bytes_up == bytes_of(whole)
    assert ROWS["fedbn"].bytes_down == ROWS["fedbn"].bytes_up == bytes_of(plain)
    assert ROWS["scaffold"].bytes_down == bytes_of(whole) + parameters
    masks = ROWS["pruned"].first_down  # one bit for each weight of the layers that are pruned, all but the first
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)][1:]
    assert masks == pytest.approx(sum(layer.weight.numel() for layer in layers) / 8, rel=0.01)


@pytest.fixture(scope="module")
def everywhere() -> frozenset[str]:
    return names_of_every_method(played(default_of(METHODS), SMALL))


@pytest.mark.parametrize("strategy", some_by_day(ROWS))
def test_a_method_sends_and_keeps_what_its_row_says(strategy: str, everywhere: frozenset[str]) -> None:
    """On a smaller network, whose bytes are others."""
    now, row = told(strategy, played(strategy, SMALL), everywhere), ROWS[strategy]
    for name in ("shared", "down", "up", "sometimes", "once", "queries"):
        assert getattr(now, name) == getattr(row, name), f"{name}: run {COMMAND} {strategy}"
    assert set(now.stays) <= set(row.stays)
    assert (now.bytes_down > now.bytes_up) == (row.bytes_down > row.bytes_up)


def test_an_unknown_method_is_refused_before_anything_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    before = TRAFFIC.read_bytes()
    with pytest.raises(UserError, match=r"^strategy=fedavgg is not known: choose apfl, .*, scaffold\.$"):
        measured(["fedavgg"])
    assert main(["--write", "fedavgg"]) == 2
    assert capsys.readouterr().err.startswith("error: strategy=fedavgg is not known")
    assert TRAFFIC.read_bytes() == before
