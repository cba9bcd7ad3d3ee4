"""Overrides become a configuration, or one sentence that says which of them is wrong and what would be right."""

import re
import shutil
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import OmegaConf

from fedsim.config.composition import CONFIG_DIR, choices, compose, load, named_folder, repeatable
from fedsim.config.settings import settings_of
from fedsim.core.errors import UserError
from fedsim.norms.policy import layer_options

FILES = sorted(path.stem for path in (CONFIG_DIR / "strategy").glob("*.yaml"))
STRATEGIES = ", ".join([*FILES, "flower/NAME"])


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    changed = compose(["rounds=3", "lr=1e-3", "data_dir=/data", "dataset.train_per_domain=40"])
    assert (changed["rounds"], changed["lr"], changed["data_dir"]) == (3, 0.001, "/data")
    assert changed["dataset"]["train_per_domain"] == 40
    defaults = compose([])
    changed["dataset"]["train_per_domain"] = defaults["dataset"]["train_per_domain"]
    assert {**changed, "rounds": 60, "lr": 0.05, "data_dir": None} == defaults


def test_the_result_is_plain_and_without_hydras_own_settings() -> None:
    config = compose(["strategy=fedbn"])
    assert "hydra" not in config
    assert type(config["strategy"]) is dict
    assert config["strategy"]["server"] == "strategies.FedBN"


def test_the_steps_of_a_split_stand_in_the_order_they_are_written() -> None:
    for steps in (["longtail", "domain", "dirichlet"], ["dirichlet", "longtail"], ["domain"]):
        split = compose([f"split=[{','.join(steps)}]"])["split"]
        assert list(split["steps"]) == steps
    split = compose(["split=[domain,quantity,longtail]", "split.min_size=3", "split.test=matched"])["split"]
    assert (split["min_size"], split["test"], split["imbalance_factor"]) == (3, "matched", 0.01)
    assert "alpha" not in split


def test_fedwon_brings_its_norm_unless_another_is_asked_for() -> None:
    assert compose([])["norm"]["name"] == "bn"
    assert compose(["strategy=fedwon"])["norm"]["name"] == "sws"
    for overrides in (["strategy=fedwon", "norm=gn"], ["norm=gn", "strategy=fedwon"]):
        layer = layer_options(compose(overrides)["norm"])
        assert layer == {
            "name": "gn",
            "_target_": "fedsim.norms.use_group_norm",
            "groups": None,
            "channels_per_group": None,
        }
    assert compose(["strategy=fedwon", "strategy.clip=null"])["strategy"]["clip"] is None


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["roundz=3"], "roundz=3 is not a setting: did you mean rounds?"),
        (["rounds=3", "batchsize=8"], "batchsize=8 is not a setting: did you mean batch_size?"),
        (["xyzzy=1"], "xyzzy=1 is not a setting: the settings are aggregation, attention, batch_size, "),
        (["strategy=fedwon", "strategy.clap=1"], "strategy.clap=1 is not a setting: did you mean strategy.clip?"),
        (["norm.groups=4"], "norm.groups=4 is not a setting: leave it out, or choose one of norm=bcn, "),  # of norm=bn
        (["stategy=fedbn"], "stategy=fedbn is not a setting: did you mean strategy?"),
        (["modell=resnet18"], "modell=resnet18 is not a setting: did you mean model?"),
        (
            ["strategy.clip=1"],
            "strategy.clip=1 is not a setting: leave it out, or choose strategy=fedwon, which has it.",
        ),
        (
            ["engine=inline", "engine.workers=3"],
            "engine.workers=3 is not a setting: leave it out, or choose one of engine=process, engine=ray.",
        ),
        (
            ["dataset=pacs", "dataset.train_per_domain=20"],
            "dataset.train_per_domain=20 is not a setting: leave it out, or choose dataset=digits, which has it.",
        ),
        (["experiment.lr=1"], "experiment.lr=1 is not a setting: did you mean "),
        (["model.name=resnet18"], "model.name=resnet18 would change a name and nothing else: write model=resnet18."),
        (["norm.name=batch"], "norm.name=batch would change a name and nothing else: write norm=NAME."),
        (["strategy=fedsgd"], f"strategy=fedsgd is not known: choose {STRATEGIES}."),
        (["strategy=fedsgd", "rounds=3"], f"strategy=fedsgd is not known: choose {STRATEGIES}."),
        (["norm=gn", "strategy=fedsgd"], f"strategy=fedsgd is not known: choose {STRATEGIES}."),
        (["experiment=nothing"], "experiment=nothing is not known: choose "),
        (["strategy="], f"strategy= is not known: choose {STRATEGIES}."),
        (["model=resnet"], "model=resnet is not known: choose "),
        (["rounds"], "'rounds' cannot be read: write key=value, without spaces."),
        (["rounds", "=", "3"], "'rounds' cannot be read: write key=value, without spaces."),
        (["rounds: 3"], "'rounds: 3' cannot be read: write key=value."),
        (["lr=[1"], "'lr=[1' cannot be read: write key=value, and a value with brackets"),
        (["out_dir=${nothing}"], "Interpolation key 'nothing' not found"),
        (["lr=interval(0.1,1)"], "lr=interval(0.1,1) has no end of values: choose range(START,STOP,STEP) or choice("),
        (
            ["data_dir=/a,b"],
            "data_dir=/a,b names several values: choose one, or add -m for a sweep over all of them, or",
        ),
        (["seed=0,1"], "seed=0,1 names several values: choose one, or add -m for a sweep"),
        (["rounds=3", "strategy=fedsgd"], f"strategy=fedsgd is not known: choose {STRATEGIES}."),
        (["strategy=null"], f"strategy=null is not known: choose {STRATEGIES}."),
        (["split=[]"], "split=[] is not known: choose dirichlet, "),
        (["split=[domain,longtrail]"], "split=[domain,longtrail] is not known: choose dirichlet, "),
        (["split=[domain,domain]"], "split=[domain,domain] is not possible: choose each of them once."),
        (["split.alpha=0.1"], "split.alpha=0.1 is not a setting: leave it out, or choose one of split=dirichlet, "),
        (["strategy=[fedbn]"], f"strategy=[fedbn] is not known: choose {STRATEGIES}."),
        (["=3"], "'=3' cannot be read: write key=value."),
        (["hydra.run.dir=x", "roundz=3"], "roundz=3 is not a setting"),
        (["+model.width=3", "roundz=3"], "roundz=3 is not a setting"),
        (["model._target_=foo", "roundz=1"], "roundz=1 is not a setting"),
    ],
)
def test_a_wrong_override_is_explained_in_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}") as raised:
        compose(overrides)
    assert "\n" not in str(raised.value)


def test_a_setting_removed_by_hand_is_missing_and_not_replaced() -> None:
    assert "lr" not in compose(["~lr"])


def test_configurations_of_ones_own_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    shutil.copytree(CONFIG_DIR, folder)
    (folder / "strategy" / "mine.yaml").write_text("name: mine\n")
    (folder / "short.yaml").write_text("defaults: [config, _self_]\nrounds: 2\n")
    assert compose(["strategy=mine"], folder)["strategy"] == {"name": "mine"}
    assert choices("strategy", folder) == [*sorted([*FILES, "mine"]), "flower/NAME"]
    assert compose([], folder, "short")["rounds"] == 2
    with pytest.raises(UserError, match=r"^strategy=yours is not known: choose .*, mine"):
        compose(["strategy=yours"], folder)


def test_a_missing_configuration_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--config-path=.*/none is not a folder: choose one that holds a config.yaml"):
        compose([], tmp_path / "none")
    with pytest.raises(UserError, match=r"--config-name=other is not in .*: choose a YAML file of that folder"):
        compose([], CONFIG_DIR, "other")
    for text in ("", "# nothing\n", "{}\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=rf"^{tmp_path}/config\.yaml cannot be read \(it is empty\)\.$"):
            compose([], tmp_path)


def test_the_choices_are_the_files_of_the_group_and_then_its_families() -> None:
    assert ", ".join(choices("strategy")) == STRATEGIES
    assert {"bn", "gn", "none", "sws"} <= set(choices("norm"))
    assert choices("nothing") == []


def test_a_run_is_written_to_resume_or_out_dir_with_the_home_folder_for_the_tilde(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert named_folder("a", "~/b") == "/home/me/b"
    assert named_folder("~/a", None) == "/home/me/a"
    assert named_folder(7, None) == "7"  # as YAML reads it
    assert named_folder(None, None) is None


def test_hydra_of_somebody_elses_program_goes_on_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rounds: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        outer = GlobalHydra.instance()
        hydra, base = outer.hydra, VersionBase.instance().getbase()
        assert compose(["rounds=3"])["rounds"] == 3
        with pytest.raises(UserError):
            compose(["roundz=3"])
        assert GlobalHydra.instance() is outer
        assert outer.hydra is hydra
        assert VersionBase.instance().getbase() == base
        assert hydra_compose("mine") == {"rounds": 1}
    assert not GlobalHydra.instance().is_initialized()


def test_a_runs_settings_are_loaded_from_its_directory(tmp_path: Path) -> None:
    config = {**compose(["strategy=fedwon", "lr=0.1"]), "out_dir": None}
    OmegaConf.save(repeatable(config), tmp_path / "config.yaml")
    assert load(tmp_path) == config
    with pytest.raises(UserError, match=r"/empty is not a run directory: choose one that holds a config.yaml"):
        load(tmp_path / "empty")


def test_a_runs_settings_can_be_run_again_elsewhere(tmp_path: Path) -> None:
    config = compose(["experiment=fedwon_small_batch", "rounds=3", "out_dir=here", "resume=there"])
    OmegaConf.save(repeatable(config), tmp_path / "config.yaml")
    assert compose([], tmp_path) == {**config, "out_dir": None, "resume": None}
    assert compose(["seed=1", "strategy.clip=0.5"], tmp_path)["strategy"] == {**config["strategy"], "clip": 0.5}


def test_an_experiment_changes_what_it_names_and_an_override_wins_over_it() -> None:
    config = compose(["experiment=fedwon_small_batch", "lr=0.5"])
    assert (config["batch_size"], config["lr"], config["strategy"]["clip"]) == (2, 0.5, None)
    assert (config["strategy"]["name"], config["norm"]["name"]) == ("fedwon", "sws")


def test_fedtinys_published_settings_are_not_those_of_its_small_experiment() -> None:
    configs = [compose([f"experiment={name}"]) for name in ("fedtiny_cifar10", "fedtiny_cifar10_small")]
    chosen = [(config["optimizer"], config["weight_decay"], config["dataset"]["cutout"]) for config in configs]
    assert chosen == [("amsgrad", 1e-4, 16), ("sgd", 0.0, None)]


def test_a_run_of_before_a_setting_was_there_has_its_default_and_a_cut_off_one_has_not(tmp_path: Path) -> None:
    settings = compose(["rounds=3"])
    del settings["join_timeout"], settings["metrics"]
    whole = OmegaConf.to_yaml(repeatable(settings))
    (tmp_path / "config.yaml").write_text(whole, encoding="utf-8")
    assert load(tmp_path)["join_timeout"] == compose([])["join_timeout"]
    assert load(tmp_path)["metrics"] == []
    assert load(tmp_path)["rounds"] == 3
    resumed = {**load(tmp_path), "resume": str(tmp_path)}
    assert settings_of({**compose([]), "resume": str(tmp_path)}).to_config() == resumed
    (tmp_path / "config.yaml").write_text(whole.partition("hydra:")[0], encoding="utf-8")
    assert "join_timeout" not in load(tmp_path)


def test_settings_that_an_older_run_lacks_have_their_defaults_also_within_groups(tmp_path: Path) -> None:
    config = repeatable(compose(["strategy=fedbn", "split.validation=0.2"]))
    OmegaConf.save(config, tmp_path / "config.yaml")
    whole = load(tmp_path)
    for group, key in (("split", "pooled"), ("norm", "freeze_after"), ("model", "pretrained")):
        del config[group][key]
    del config.checkpoint_keep
    OmegaConf.save(config, tmp_path / "config.yaml")
    older = load(tmp_path)
    assert older == whole
    assert older["split"]["pooled"] is False
    assert older["split"]["validation"] == 0.2


def test_an_option_that_an_older_run_lacks_says_what_it_did(tmp_path: Path) -> None:
    config = repeatable(compose(["strategy=fedwon"]))
    OmegaConf.save(config, tmp_path / "config.yaml")
    whole = load(tmp_path)
    del config.strategy.standardized
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert load(tmp_path) == whole
    assert whole["strategy"]["standardized"] is True
