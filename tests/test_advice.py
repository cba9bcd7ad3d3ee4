"""Advice is taken: what a refusal advises is accepted where it is given, and is not answered by the same refusal."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from datasets.federation import Federation
from fedsim.config.composition import CONFIG_DIR, compose
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.deployment.superlink import SuperLink
from fedsim.server.preparation import prepare
from tests.conftest import ROOT, SMALL

ADVICE = re.compile(r"(?:: |\()(?=[^:(]*\b(?:choose|leave|with|norm\.policy)\b)")
SETTING = re.compile(r"(?<!below )(?<![\w./=-])([a-z_]+(?:\.[a-z_]+)?)=([^\s,;)]*[^\s,;.)])")
KEY = re.compile(r"(?<![\w./=-])([a-z_]+\.[a-z_]+)(?![\w=.])")
LEFT_OUT = re.compile(r"leave [^:]*? out\b|without \S+\b")

NO_SETTINGS = {"key", "partition", "id", "e.g", "ca.crt", "config.yaml", "summary.json", "model.safetensors"}
"""What looks like a setting and is none: words for any of them, and files."""

CLASSES = "budget.classes={small:{clients:[0,1],memory_mb:5},large:{clients:[2,3,4,5],memory_mb:40}}"
REFUSED = [
    "strategy=fedbn norm=gn",
    "strategy=fedbn model=torchvision/squeezenet1_1 dataset.image_size=28",
    "strategy=fedwon norm=bn",
    "model=resnet20 norm=sws norm.alpha=0.3",
    "norm=bcn norm.moving_speed=0.1",
    "strategy=fedwon strategy.standardized=false",
    "strategy=fedwon strategy.standardized=false norm=gn",
    "strategy=fedloge head=etf",
    "strategy=fedrod head=etf",
    "strategy=fedsr head=etf",
    "strategy=creff head=etf",
    "strategy=fedetf head=linear",
    "strategy=central split.pooled=false",
    "strategy=central aggregation=median",
    "split.pooled=true",
    "strategy=fedper head=etf",
    "strategy=fedper train_only=norm",
    "strategy=feddst aggregation=median",
    "strategy=lotteryfl aggregation=median",
    f"strategy=pruned strategy.density=null aggregation=median {CLASSES}",
    f"strategy=pruned strategy.density=null diagnostics=true {CLASSES}",
    "strategy=pruned strategy.density=null",
    "norm.freeze_after=1 norm.statistics=none",
    "norm.statistics=none norm.evaluation=running",
    "norm=gn norm.policy=silobn",
    "model=torchvision/squeezenet1_1 dataset.image_size=28 norm.policy=silobn",
    "norm=powernorm norm.evaluation=batch",
    "strategy=fedbn norm.policy=silobn",
    "norm=ibn_a",
    "norm=none norm.residual=nf",
    "model=vit_tiny model.width=12 model.depth=1 norm=gn",
    "model=vit_tiny model.width=12 model.depth=1 strategy=fedwon",
    "model=vit_tiny model.width=12 model.depth=1 dataset.image_size=31",
    "norm=rms norm.recentre=true",
    "norm=in model=torchvision/resnet18",
    "model=alexnet",
    "model=vgg11",
    "tta=bn_batch norm=gn",
    "tta=bn_batch norm.statistics=none",
    "tta=bn_batch model=torchvision/squeezenet1_1 dataset.image_size=28",
    "aggregation=median fraction=0.3",
    "privacy=server_fixed_clipping privacy.noise_multiplier=1",
    "privacy=server_fixed_clipping privacy.noise_multiplier=1 aggregation=median strategy.weighting=uniform",
    "privacy=server_fixed_clipping privacy.noise_multiplier=1 strategy.weighting=uniform",
    "privacy=server_fixed_clipping privacy.noise_multiplier=1 strategy.weighting=uniform norm=gn diagnostics=true",
    "privacy=server_adaptive_clipping privacy.noise_multiplier=1 strategy=fedbn",
    "engine=superlink engine.address=a:1",
    "engine=vectorized strategy=moon",
    "engine=vectorized optimizer=sgdp",
    "engine=vectorized norm=powernorm",
    "optimizer=adam momentum=0.5",
    "lr_schedule=step",
    "lr_decay=0.1 lr_decay_rounds=30",
    "norm=gn norm.groups=7",
    "faults=injected faults.drop_out=0.2",
    "faults=injected faults.over_selection=1.3",
    "faults=injected min_fraction_success=0.5 faults.drop_out=0.7 faults.not_finite=0.7",
    "strategy=scaffold momentum=0.5",
    "strategy=fdse norm=bn",
    "norm=dse model=torchvision/resnet18",
    "norm=dse model=torchvision/squeezenet1_1 dataset.image_size=28",
    "strategy=hbn norm=bn",
    "strategy=hbn norm.statistics=local",
    "norm=hbn",
    "strategy=fbn norm=gn",
    "strategy=fedtan norm=gn",
    "strategy=fbn norm.policy=silobn",
    "strategy=fednova optimizer=adam",
    "strategy=fraug head=etf",
    "strategy=fraug train_only=norm",
    "strategy=fraug norm.policy=silobn",
    "strategy=fraug privacy=server_fixed_clipping privacy.noise_multiplier=1 strategy.weighting=uniform",
    "strategy=fednova privacy=server_fixed_clipping privacy.noise_multiplier=1 strategy.weighting=uniform norm=gn",
]
ELSEWHERE = {
    "fedsim/trained/models.py": "about a finished run, in test_trained.py",
    "choose steps by split=[NAME,NAME]": "which stands for any of them",
    "fedsim/config/binding.py": "for a class of somebody's script",
    "fedsim/app/cli.py": "about flags and words, in test_cli.py",
    "fedsim/config/overrides.py": "about words, in test_overrides.py",
    "fedsim/config/resuming.py": "about a run that is there, in test_resuming.py",
    "choose faults=none": "for real devices, in test_faults.py",
    "fedsim/config/run_folders.py": "about a folder, in test_run_folders.py",
    "fedsim/output/run_directory.py": "about a folder, in test_cli.py",
    "fedsim/output/results.py": "of the report, which has no settings",
    "fedsim/config/composition.py": "about words and folders, in test_config.py",
    "fedsim/engines/process.py": "for another operating system",
    "choose a smaller engine.clients_at_once": "for the memory of a GPU",
    "fedsim/engines/ray_grid.py": "about clusters, in test_ray_grid.py",
    "choose another model, or attention=none": "for networks of a form that is not among these, in test_place.py",
    "choose norm=bn, which leaves it as it is": "for networks without BatchNorm, which stay possible with norm=bn",
    "choose another model, or reparam=none": "for networks without weights",
    "choose another model, or strategy=local": "for networks of one layer, in test_fedrep_server.py",
    "choose aggregation=mean and privacy=none, or another strategy": "for a strategy of one's own",
    "with dataset=devices": "for real devices, whose images are there",
    "fedsim/app/server_app.py": "for real devices, whose configuration it is about",
    "datasets/readers/official.py": "for data that are not here, in test_cli.py",
    "fedsim/report/tuning.py": "about sweeps, in test_tuning.py",
    "fedsim/report/planned_runs.py": "about a folder, in test_tuning.py",
    "fedsim/report/reproducing.py": "about a table of rows, in test_reproducing.py",
    "choose norm=gn or norm=ln": "for BatchNorm of another number of dimensions, in test_replace.py",
    "fedsim/norms/tokens.py": "for a LayerNorm of somebody's own, in test_tokens.py",
    "fedsim/models/timm_models.py": "for networks that cannot be built, in test_timm_models.py",
    "choose groups that leave the network as it is": "for a file of weights, in test_pretrained.py",
    "fedsim/norms/none.py": "for networks with further norm layers, in test_none.py",
    "fedsim/norms/pixels.py": "for images of one pixel, in test_pixels.py",
    "datasets/readers/domain_folders.py": "for data that are not here, in test_domain_folders.py",
    "datasets/splits/pipeline.py": "for data that are not here, in test_pipeline.py",
    "datasets/devices.py": "for real devices, whose configuration it is about",
}


@cache
def refusal(words: tuple[str, ...], federation: Federation | None) -> str:
    """What is said of these settings; nothing if they are possible."""
    try:
        settings = Settings.from_config(compose(words))
        if settings.engine["name"] == "superlink":
            SuperLink.check([], settings.engine)
        else:
            own = any(word.startswith(("dataset", "split")) for word in words)
            prepare(settings, None if own else federation)
    except UserError as error:
        return str(error)
    return ""


def advice(sentence: str) -> str:
    return LEFT_OUT.sub("", " ".join(ADVICE.split(sentence)[1:]))


def settings_in(text: str) -> list[tuple[str, str]]:
    return [(key, value) for key, value in SETTING.findall(text) if key not in NO_SETTINGS]


def keys_in(text: str) -> list[str]:
    return [key for key in KEY.findall(text) if key not in NO_SETTINGS]


def holds(config: dict[str, Any], key: str) -> bool:
    group, _, option = key.partition(".")
    return group in config and (not option or option in (config[group] or {}))


@pytest.mark.nightly
@pytest.mark.parametrize("line", REFUSED)
def test_what_is_advised_is_accepted_where_it_is_advised(line: str, federation: Federation) -> None:
    words = [*SMALL, *line.split()]
    sentence = refusal(tuple(words), federation)
    assert sentence, "these settings are possible"
    config = compose(words)
    for key in keys_in(advice(sentence)):
        assert holds(config, key), sentence
    for alternative in re.split(r",? or ", advice(sentence)):
        changed, advised = words, settings_in(alternative)
        for key, value in advised:  # the options of a file go with it
            changed = [word for word in changed if word.partition("=")[0] != key and not word.startswith(f"{key}.")]
            changed.append(f"{key}={value}")
        again = refusal(tuple(changed), federation) if advised else ""
        assert again != sentence
        assert not again.startswith(tuple(f"{key}={value} " for key, value in advised)), f"{sentence} And then: {again}"


def sentences_in_the_code() -> list[tuple[str, str]]:
    """Each text that advises a setting, as far as it does not depend on values, with the file it stands in."""
    found = []
    for folder in ("fedsim", "strategies", "clients", "datasets"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if id(node) in inside | documents:
                    continue
                if isinstance(node, ast.JoinedStr):
                    pieces = [str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values]
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    pieces = [node.value]
                else:
                    continue
                text = advice("".join(pieces))
                if re.search(r"\b(choose|leave)\b", "".join(pieces)) and (settings_in(text) or keys_in(text)):
                    found.append((str(path.relative_to(ROOT)), text.strip("\0 ").split("\0")[0]))
    return found


def test_every_sentence_that_advises_a_setting_is_among_them(federation: Federation) -> None:
    said = [advice(refusal((*SMALL, *line.split()), federation)) for line in REFUSED]
    texts = sentences_in_the_code()
    assert len(texts) > 25
    missing = [
        (file, text)
        for file, text in texts
        if not any(part in f"{file} {text}" for part in ELSEWHERE) and not any(text in each for each in said)
    ]
    assert not missing


def test_every_setting_that_is_advised_anywhere_is_one() -> None:
    for file, text in sentences_in_the_code():
        for key, _ in settings_in(text):
            group, _, option = key.partition(".")
            if (CONFIG_DIR / group).is_dir() and option:
                own = [path.read_text(encoding="utf-8") for path in Path(CONFIG_DIR, group).rglob("*.yaml")]
                common = compose([])[group]
                assert option in common or any(re.search(rf"^\s*{option}:", each, re.MULTILINE) for each in own), file
            else:
                assert group in compose([]), (file, key)
