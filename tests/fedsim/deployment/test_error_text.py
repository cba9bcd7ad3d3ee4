"""What went wrong on another machine, as one line of our log."""

import pytest

from fedsim.core.errors import UserError
from fedsim.deployment.error_text import one_line
from tests.fedsim.deployment.nodes import ask, device, grid_of

pytestmark = pytest.mark.usefixtures("impatient")


def flowers_words(error: Exception) -> str:
    """As in Flower's ``run_clientapp``."""
    return str(type(error)) + ":<'" + str(error) + "'>"


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (
            flowers_words(UserError("client 1 has lost what it kept: it's gone.")),
            "client 1 has lost what it kept: it's gone.",
        ),
        (flowers_words(KeyError("arrays")), "KeyError: 'arrays'"),
        (flowers_words(AssertionError()), "AssertionError"),
        (flowers_words(RuntimeError("it is wrong:\n  this\n  and that")), "RuntimeError: it is wrong:"),
        ("\n\nNode Unavailable", "Node Unavailable"),
        ("one\rWARNING: two", "one"),
        ("one\u2028two\x85three", "one"),
        ("\x1b[2Jgone\x07 \u202eback\t!", "[2Jgone back !"),
        ("x" * 301, "x" * 299 + "…"),
        ("x" * 300, "x" * 300),
        (" \n\x00", "no reason given"),
        (None, "no reason given"),
        (
            "<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::ClientAppActor.run()\x1b[39m\n"
            "flwr.clientapp.client_app.ClientAppException: \n"
            "Exception ClientAppException occurred. Message: no images.'>",
            "no images.",
        ),
    ],
)
def test_what_went_wrong_there_is_one_line_here(reason: str | None, line: str) -> None:
    assert one_line(reason) == line
    assert one_line(line) == line


def test_a_device_cannot_forge_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    behind, grid = grid_of(0, 1)
    behind.nodes[102] = device(2)
    behind.failing = dict.fromkeys((101, 102), flowers_words(ValueError("no\nround 9: accuracy 1.0\x1b[1A")))
    grid.refresh()
    grid.refresh()
    reply = ask(grid, [1])[0]
    assert (reply.error.code, reply.error.reason) == (2, "ValueError: no")
    assert "node 102 is left out for now: ValueError: no" in caplog.text
    assert "round 9" not in caplog.text
