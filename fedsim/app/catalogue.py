"""``docs/strategies.md``, the methods and what their messages hold: ``python -m fedsim.app.catalogue --write``.

The bytes are measured: each method plays two rounds with the network of FedBN's digits benchmark. They are kept in
``docs/strategies.csv``, which ``python run.py strategy=list`` reads, too. With names of methods only these are measured
again.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from fedsim.config.composition import compose
from fedsim.config.listing import METHODS, TRAFFIC, Traffic, described, read_traffic
from fedsim.config.reference import FAMILY_MEMBER, choices, default_of
from fedsim.config.settings import settings_of
from fedsim.core.checkout import ROOT
from fedsim.core.errors import FedsimError, UserError
from fedsim.core.files import write_atomically
from fedsim.messages.schema import CACHED
from fedsim.report.markdown import plain
from fedsim.server.preparation import prepare
from fedsim.server.traffic import Played, play

PAGE = ROOT / "docs" / "strategies.md"
COMMAND = "python -m fedsim.app.catalogue --write"
WORDS = ("model=cnn6", "split.leave_out=[faded,texture,street,font]", "device=cpu")
"""Two clients of the embedded digits; what travels does not depend on how many there are."""
IMAGES = ("dataset.train_per_domain=20", "dataset.test_per_domain=10")
INTRODUCTION = f"""# Methods

Every choice of `strategy=`, what travels between the server and a client, what stays there, and how many bytes that is.
`python run.py strategy=list` prints the same without the bytes, and `norm=list`, `model=list` and so on the choices of
the other groups. [configuration.md](configuration.md) has the options of each method, and
[architecture.md](architecture.md#a-round) says how one is made.

`{COMMAND}` makes this page: it plays two rounds of each method and reads their messages; a test compares.
`{COMMAND} NAME` measures one method again. The numbers are in [strategies.csv](strategies.csv).
"""
TABLE = f"""## Messages

`model` stands for the entries of the network that are neither personal nor frozen. Other names are those of records; a
single number or word has *(config)* or *(metrics)* behind it, the record that it stands in. What stays are modules of
the network, by type, and records of the method.

*MB* are 10⁶ bytes for one client in a round, with `{WORDS[0]}` on the embedded digits and all other settings by
default. *First round* is what that one adds: what is sent once, and what clients are asked before. What a method sends
in some rounds only is not among the bytes, and neither is evaluation, which is measurement.
"""


def played(strategy: str, words: Sequence[str] = WORDS) -> Played:
    """Play two rounds of a method and return what travelled.

    Raises:
        UserError: If the method is not possible with these settings.
        RoundFailed: If a client fails.
    """
    overrides = [f"{METHODS}={strategy}", *words, *IMAGES]
    return play(prepare(settings_of(compose(overrides), overrides)))


def told(strategy: str, found: Played, everywhere: frozenset[str]) -> Traffic:
    """Return what is told of the messages of a method, without the names that those of every method hold."""
    first, later = found.first, found.later
    up = (first.up | later.up) - everywhere
    return Traffic(
        strategy=strategy,
        shared="model" if found.model_travels else "",
        down=_sorted(later.down - everywhere),
        up=_sorted(up),
        sometimes=_sorted(found.declared - up),
        once=_sorted(name.removeprefix(CACHED) for name in first.down - later.down - everywhere),
        queries=_sorted(kind.removeprefix("query.") for kind in first.queries),
        stays=(*found.personal, *_sorted(found.kept)),
        bytes_down=later.bytes_down,
        bytes_up=later.bytes_up,
        first_down=first.bytes_down - later.bytes_down,
        first_up=first.bytes_up - later.bytes_up,
    )


def names_of_every_method(default: Played) -> frozenset[str]:
    """Return the names beside the model in the messages of the default method."""
    return default.first.down | default.first.up


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def measured(names: Sequence[str] = ()) -> dict[str, Traffic]:
    """Return what the messages of all methods hold; with ``names`` only these are measured, and the others are read.

    Raises:
        UserError: If there is no method of such a name.
    """
    every = [each for each in choices(METHODS) if FAMILY_MEMBER not in each]
    for name in names:
        if name not in every:
            raise UserError(f"{METHODS}={name} is not known: choose {', '.join(every)}.")
    default = default_of(METHODS)
    default_played, known = played(default), read_traffic() if names else {}
    everywhere, found = names_of_every_method(default_played), {}
    for each in every:
        if each in known and each not in names:
            found[each] = known[each]
            continue
        print(each, flush=True)
        found[each] = told(each, default_played if each == default else played(each), everywhere)
    return found


def to_csv(rows: Mapping[str, Traffic], path: Path) -> None:
    """Write what the messages hold as a table.

    Raises:
        FileError: If the file cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [each.name for each in fields(Traffic)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(each.written() for each in rows.values())

    write_atomically(path, write)


def page() -> str:
    """Return the whole page."""
    traffic = read_traffic()
    heads = ("what travels", "what stays on the client", "MB down", "MB up", "first round")
    lines = [INTRODUCTION, "## What each is", ""]
    lines += [f"* `{choice}`: {what}" for choice, what in described(METHODS)]
    lines += ["", TABLE, f"| `strategy=` | {' | '.join(heads)} |", "|---|---|---|---:|---:|---:|"]
    for each in traffic.values():
        numbers = (_megabytes(each.bytes_down), _megabytes(each.bytes_up), _more(each))
        lines.append(f"| {' | '.join((f'`{each.strategy}`', plain(each.travels), plain(each.kept), *numbers))} |")
    return "\n".join(lines) + "\n"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _more(each: Traffic) -> str:
    """Return what the first round adds, down and up."""
    more = {"down": each.first_down, "up": each.first_up}
    return ", ".join(f"{count / 1e6:+.2f} {way}" for way, count in more.items() if count)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fedsim.app.catalogue", description="Makes docs/strategies.md.")
    parser.add_argument("names", nargs="*", help="the methods to measure again (default: all)")
    parser.add_argument("--write", action="store_true", help="measure, and write the page and its table")
    options = parser.parse_args(arguments)
    try:
        if not options.write:
            print(page(), end="")
            return 0
        to_csv(measured(options.names), TRAFFIC)
        write_atomically(PAGE, lambda path: path.write_text(page(), encoding="utf-8"))
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"written: {TRAFFIC.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
