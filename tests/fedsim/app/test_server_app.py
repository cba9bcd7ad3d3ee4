"""What a run on Flower's nodes is refused for before any of them is awaited."""

import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from fedsim.app import server_app
from fedsim.core.errors import UserError
from fedsim.output.progress import Reporter


class Untouched:
    """A grid that nobody may look at."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} is asked for")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "resume=outputs/run",
            r"^resume=outputs/run is not possible with flwr run: SuperNodes keep",
        ),
        ("dataset=devices dataset.classes=2 +strategy.clip=1", r"^strategy\.clip=1 is not an option of fedavg: leave"),
        ("strategy.server=strategies.Nothing", r"^strategy\.server=strategies\.Nothing cannot be imported"),
    ],
)
def test_wrong_words_are_refused_before_a_node_is_asked(words: str, sentence: str) -> None:
    grid: Grid = Untouched()  # type: ignore[assignment]
    context = Context(1, 1, {}, RecordDict(), {"overrides": words})
    with pytest.raises(UserError, match=sentence):
        server_app._play(grid, context, Reporter())
