"""What a person types reaches the configuration letter by letter, whatever Hydra's grammar would make of it."""

import shlex

import pytest

from fedsim.config.composition import compose
from fedsim.config.overrides import parse, readable, word_for
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError

ODD_PATHS = [
    *("a b", "a (1)/b", "a=b", "a#b", "[x]", "{a}", "it's", 'say "hi"', "7", "1_0", "true", "1e3", "nan", "a;b&c"),
    *(
        "/home/Jürgen/été",
        "データ",
        "a:b",
        "a\\",
        "C:\\x y",
        "$HOME/x",
        "a!b",
        "<a>",
        "choice",
        "a%20b",
        "x^y`z",
        "007",
    ),
]


def typed(word: str) -> str:
    """The text that Hydra takes the value of this word to be."""
    value = parse(readable(word)).value()
    assert isinstance(value, str)
    return value


@pytest.mark.parametrize("path", ODD_PATHS)
@pytest.mark.parametrize("key", ["out_dir", "data_dir", "resume", "engine.root_certificates"])
def test_a_path_is_what_was_typed(key: str, path: str) -> None:
    assert typed(f"{key}={path}") == path


def test_odd_paths_arrive_in_the_configuration() -> None:
    assert compose(["out_dir=a (1)=#é", "data_dir=[it's]"])["out_dir"] == "a (1)=#é"
    assert compose(["out_dir=a (1)=#é", "data_dir=[it's]"])["data_dir"] == "[it's]"


@pytest.mark.parametrize("path", [*ODD_PATHS, "a,b", " a", "null", "~x,y"])
def test_the_word_that_is_printed_for_a_path_gives_that_path(path: str) -> None:
    (word,) = shlex.split(word_for("resume", path))
    assert typed(word) == path


def test_a_path_in_quotes_null_and_an_interpolation_are_read_as_hydra_has_them() -> None:
    assert compose(['out_dir="a,b"'])["out_dir"] == "a,b"
    assert compose(["out_dir='~/a b'"])["out_dir"] == "~/a b"
    assert compose(["out_dir=null"])["out_dir"] is None
    assert compose(["out_dir=runs/${seed}", "seed=7"])["out_dir"] == "runs/7"
    assert compose(["out_dir=~/${seed}", "seed=7"])["out_dir"] == "~/7"


def test_the_tilde_is_the_home_folder_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["dataset=cifar10", "strategy=pruned", "engine=superlink"]
    words += ["data_dir=~/d", "out_dir=~", "resume=~/r", "dataset.npz=~/n.npz", "dataset.parquet=~/p"]
    words += ["strategy.pretrained=~/m.safetensors", "engine.root_certificates=~/lab/ca.crt"]
    settings = Settings.from_config(compose(words))
    assert (settings.data_dir, settings.out_dir, settings.resume) == ("/home/me/d", "/home/me", "/home/me/r")
    assert (settings.dataset["npz"], settings.dataset["parquet"]) == ("/home/me/n.npz", "/home/me/p")
    assert settings.strategy["pretrained"] == "/home/me/m.safetensors"
    assert settings.engine["root_certificates"] == "/home/me/lab/ca.crt"
    hub = "hf://datasets/a~b"
    assert Settings.from_config(compose(["dataset=femnist", f"dataset.parquet={hub}"])).dataset["parquet"] == hub
    assert readable("hydra.run.dir=~/x") == 'hydra.run.dir="/home/me/x"'  # a folder that Hydra itself makes
    with pytest.raises(
        UserError, match=r"^data_dir=~nobody_here/x names a home folder that is not here: choose \./~nob"
    ):
        Settings.from_config(compose(["data_dir=~nobody_here/x"]))
    assert Settings.from_config(compose(["data_dir=./~nobody_here/x"])).data_dir == "./~nobody_here/x"


def test_names_in_other_settings_are_what_was_typed() -> None:
    assert typed("split.leave_out=Zürich") == "Zürich"
    assert typed("split.leave_out=Real (World)") == "Real (World)"
    names = parse(readable("dataset.domains=[R&D,it's,Zürich,Real World,~]")).value()
    assert names == ["R&D", "it's", "Zürich", "Real World", "~"]


@pytest.mark.parametrize(
    "word",
    ["seed=range(0,3)", "seed=0,1", "strategy=glob(fed*)", "seed=sort(3,1,reverse=true)", "lr=1e-3", "~lr", "+a=1"],
)
def test_what_hydra_reads_is_left_alone(word: str) -> None:
    assert readable(word) == word


def test_several_paths_of_a_sweep_stay_several() -> None:
    override = parse(readable("data_dir=~/a,/b c,é"))
    assert override.is_sweep_override()
    assert [typed(f"data_dir={value}") for value in override.sweep_string_iterator()] == ["~/a", "/b c", "é"]


@pytest.mark.parametrize("word", ["lr=[1", "rounds: 3", "=3", "budget.classes={é:{memory_mb:1}}"])
def test_what_nobody_can_read_is_one_sentence(word: str) -> None:
    with pytest.raises(UserError, match=r" cannot be read: write key=value"):
        parse(readable(word))
