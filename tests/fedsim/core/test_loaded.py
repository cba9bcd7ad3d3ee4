"""Libraries that take seconds to import are imported by the runs that use them."""

import subprocess
import sys

from torch import nn
from torchvision.models.resnet import BasicBlock

from fedsim.core.loaded import loaded
from tests.conftest import ROOT

PROGRAM = """
import sys
import fedsim.app.jobs, fedsim.app.python_api
from fedsim.config.composition import compose
from fedsim.config.settings import Settings
from fedsim.models import build_model
from fedsim.norms import norm_layers
small = build_model(Settings.from_config(compose([])), num_classes=10)
assert not {"timm", "torchvision", "torch._dynamo", "matplotlib"} & sys.modules.keys()
before = len(norm_layers())
from timm.layers.evo_norm import EvoNorm2dB0
assert EvoNorm2dB0 in norm_layers() and len(norm_layers()) > before
"""


def test_a_run_of_a_network_of_ours_imports_neither_timm_nor_torchvision_nor_matplotlib() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_classes_of_a_module_that_is_imported_are_there_and_others_are_not() -> None:
    assert loaded("torchvision.models.resnet", "BasicBlock") == (BasicBlock,)
    assert loaded("a_module.that.nobody.has", "Block") == ()
    assert not isinstance(nn.ReLU(), loaded("a_module.that.nobody.has", "Block"))
