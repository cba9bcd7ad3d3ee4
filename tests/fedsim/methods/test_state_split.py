"""Entries of a model by module type, on a network whose BatchNorm is not always called ``bn``."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet18

from fedsim.methods.state_split import entries_of


def test_resnets_batch_norm_is_found_also_where_its_name_does_not_say_so() -> None:
    model = resnet18(weights=None)
    found = entries_of(model, (_BatchNorm,))
    assert len(found) == 100
    assert sum("bn" not in name for name in found) == 15
    # Independently: the entries that are the very tensors of those modules.
    tensors = {
        tensor.data_ptr()
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
        for tensor in (*module.parameters(), *module.buffers())
    }
    assert set(found) == {name for name, tensor in model.state_dict().items() if tensor.data_ptr() in tensors}


def test_the_order_is_that_of_the_state_dict() -> None:
    model = resnet18(weights=None)
    assert entries_of(model, (nn.Module,)) == tuple(model.state_dict())
    both = entries_of(model, (nn.Linear, nn.BatchNorm2d))
    assert both == tuple(name for name in model.state_dict() if name in set(both))
    assert both[-2:] == ("fc.weight", "fc.bias")


def test_no_types_select_nothing() -> None:
    assert entries_of(resnet18(weights=None), ()) == ()


def test_a_number_is_not_taken_for_a_longer_one() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), *(nn.Linear(2, 2) for _ in range(9)))  # up to "10"
    found = entries_of(model, (nn.BatchNorm1d,))
    assert found == ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")


def test_a_model_that_is_itself_of_the_type_is_selected_whole() -> None:
    model = nn.BatchNorm1d(2)
    assert entries_of(model, (nn.BatchNorm1d,)) == tuple(model.state_dict())


def test_what_a_matching_module_holds_belongs_to_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2))))
    assert entries_of(model[1], (nn.Sequential,)) == tuple(model[1].state_dict())
    assert entries_of(nn.ModuleDict({"a": model[1], "b": nn.Linear(2, 2)}), (nn.Sequential,)) == tuple(
        f"a.{name}" for name in model[1].state_dict()
    )


def test_a_layer_used_twice_is_selected_under_both_names() -> None:
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(nn.Linear(2, 2), norm, nn.Linear(2, 2), norm)
    assert {name.partition(".")[0] for name in entries_of(model, (nn.BatchNorm1d,))} == {"1", "3"}
