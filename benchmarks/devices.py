"""What a slow link costs: ``python benchmarks/devices.py --mbit 1 strategy=fedbn model=resnet20``.

A SuperLink with TLS and authentication and three SuperNodes, each in a Linux network namespace of its own. A veth pair
joins each device to the server, and both of its ends are limited by ``tc ... tbf``. ``flwr run`` plays each variant
once; printed are seconds and bytes of a round: those of the messages' arrays (``rounds.csv``) and those that crossed
the links. What comes before the first round and after the last one (code, evaluations) is told apart.

Needs Linux and root. Nothing listens outside of the namespaces, and all that was started or made is gone at the end.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fedsim.deployment.devices.authority import Authority

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PORT = 8000
DOMAINS = ("plain", "inverted", "faded")
WORDS = ("split.leave_out=[texture,street,font]", "device=cpu")
VARIANTS = ("compression=null", "compression=fp16", "compression=int8")
PATIENCE = 120.0
"""Seconds to wait for what takes a few: other processes may be busy on the same cores."""
POLL = 0.1
OFF = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""No process in a namespace can reach the world, so none has to try."""


def run(*command: str) -> str:
    """Its output; errors: ``SystemExit`` with what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


@dataclass(frozen=True)
class Namespace:
    """A network namespace and what runs in it; each process has a Flower home of its own."""

    name: str
    folder: Path

    def start(self, command: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        """One of Flower's commands, and the file of its output. Ctrl-C does not reach it: ``network`` ends it."""
        home = self.folder / "home"
        environment = {**os.environ, **OFF, "FLWR_HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        log = self.folder / f"{time.monotonic_ns()}_{command}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, str(BIN / command), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )
        return process, log

    def finish(self, command: str, *arguments: str) -> None:
        """Starts and waits; errors: ``SystemExit`` with what it said."""
        process, log = self.start(command, *arguments)
        if process.wait(PATIENCE):
            raise SystemExit(f"{command} ended with {process.returncode}:\n{log.read_text()}")

    def start_until(self, words: str, command: str, *arguments: str) -> None:
        """Starts and waits until it says ``words``."""
        process, log = self.start(command, *arguments)
        end = time.monotonic() + PATIENCE
        while words not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command} does not say {words!r}:\n{log.read_text()}")
            time.sleep(POLL)

    def end(self) -> None:
        """Ends all that runs in it, whoever started that, politely at first, and removes it."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave the rest behind
        self._send(signal.SIGTERM)
        end = time.monotonic() + 10
        while self._pids():
            if time.monotonic() > end:
                self._send(signal.SIGKILL)
            time.sleep(POLL)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)

    def _send(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(pid, number)

    def _pids(self) -> list[int]:
        """Of living processes: those that have ended are in no namespace."""
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]


@contextmanager
def network(folder: Path, mbit: float) -> Iterator[tuple[Namespace, dict[str, Namespace]]]:
    """The server's namespace and the devices', joined; each is removed whatever happens."""
    with ExitStack() as stack:

        def namespace(name: str) -> Namespace:
            made = Namespace(f"fedsim{os.getpid()}-{name}", folder / name)
            (made.folder / "home").mkdir(parents=True)
            stack.callback(made.end)
            run("ip", "netns", "add", made.name)
            run("ip", "-n", made.name, "link", "set", "lo", "up")
            return made

        server, devices = namespace("server"), {}
        for number, domain in enumerate(DOMAINS):
            device = devices[domain] = namespace(domain)
            run(*f"ip link add {domain} netns {server.name} type veth peer name uplink netns {device.name}".split())
            for end, link, address in (
                (server, domain, server_address(number)),
                (device, "uplink", device_address(number)),
            ):
                run(*f"ip -n {end.name} address add {address}/24 dev {link}".split())
                # Packets as on a wire: else 64 kB pass as one, and the bytes of their headers are not counted.
                run(*f"ip -n {end.name} link set {link} gso_max_segs 1 up".split())
                if mbit:
                    limit = f"tbf rate {mbit}mbit burst 16kb latency 400ms"
                    run(*f"tc -n {end.name} qdisc add dev {link} root {limit}".split())
        yield server, devices


def server_address(number: int) -> str:
    """Where a device reaches the server: each has a link of its own."""
    return f"10.77.{number}.1"


def device_address(number: int) -> str:
    return f"10.77.{number}.2"


def start_federation(folder: Path, server: Namespace, devices: dict[str, Namespace]) -> None:
    """A SuperLink and the SuperNodes, with keys, until all are in."""
    hosts = [server_address(number) for number in range(len(devices))]
    keys = Authority.create(folder / "keys", hosts, list(devices)).folder
    secure = ("--ssl-certfile", f"{keys / 'server.pem'}", "--ssl-keyfile", f"{keys / 'server.key'}")
    known = ("--ssl-ca-certfile", f"{keys / 'ca.crt'}", "--enable-supernode-auth")
    where = ("--host", "0.0.0.0", "--port", str(PORT), "--disable-runtime-dependency-installation")
    server.start_until("Application startup complete", "flower-superlink", *where, *secure, *known)
    config = f'[superlink.lab]\naddress = "127.0.0.1:{PORT}"\nroot-certificates = "{keys / "ca.crt"}"\n'
    (server.folder / "home" / "config.toml").write_text(config)
    for number, (name, device) in enumerate(devices.items()):
        mine = keys / "devices" / name
        server.finish("flwr", "supernode", "register", str(mine / "key.pub"), "lab")
        device.start_until(
            "SuperNode ID:",
            *("flower-supernode", "--superlink", f"{server_address(number)}:{PORT}"),
            *("--root-certificates", str(mine / "ca.crt"), "--auth-supernode-private-key", str(mine / "key")),
            *("--node-config", f'partition-id={number} state-dir="{device.folder / "state"}"'),
        )


def crossed(server: Namespace) -> dict[str, int]:
    """Bytes that have crossed all links until now, with the Ethernet header of each packet."""
    links = json.loads(run("ip", "-n", server.name, "-s", "-j", "link"))
    stats = [link["stats64"] for link in links if link["ifname"] in DOMAINS]
    return {"link_down": sum(s["tx"]["bytes"] for s in stats), "link_up": sum(s["rx"]["bytes"] for s in stats)}


def play(server: Namespace, words: Sequence[str], out_dir: Path) -> list[dict[str, Any]]:
    """One run; for each round what ``rounds.csv`` says of it, and what crossed the links since the round before.

    Round 0 is all that comes before the first training, and the last one has in it what comes after that.
    """
    overrides = " ".join([*words, f"out_dir={out_dir}"])
    before = crossed(server)
    rows: list[dict[str, Any]] = []
    process, log = server.start("flwr", "run", str(ROOT), "lab", "--stream", "--run-config", f'overrides="{overrides}"')
    ended = False
    while not ended:
        time.sleep(POLL)
        ended = process.poll() is not None  # asked before the last rows are read
        for row in read_rounds(out_dir / "rounds.csv")[len(rows) :]:
            now = crossed(server)
            rows.append({**row, **{key: now[key] - before[key] for key in now}})
            before = now
    if process.returncode or not rows:
        raise SystemExit(f"flwr run ended with {process.returncode}:\n{log.read_text()}")
    return rows


def read_rounds(file: Path) -> list[dict[str, Any]]:
    """The rows that are written to the end."""
    if not file.exists():
        return []
    columns = ("round", "seconds", "device_seconds", "bytes_down", "bytes_up")
    lines = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [{name: float(row.get(name) or "nan") for name in columns} for row in csv.DictReader(lines)]


def table(rows: list[dict[str, Any]], mbit: float) -> pd.DataFrame:
    """Means over the rounds but the last, after which devices evaluate: the others have nothing in them but training.

    ``link_seconds``: how long the bytes of one device take at the rate of its link, those down and then those up.
    """
    frame = pd.DataFrame(rows)
    last = frame.groupby("variant")["round"].transform("max")
    rounds = frame[(frame["round"] > 0) & (frame["round"] < last)].drop(columns="round").groupby("variant", sort=False)
    means = rounds.mean()
    means.insert(0, "fastest", rounds["seconds"].min())
    if mbit:
        link_bits = (means["link_down"] + means["link_up"]) / len(DOMAINS) * 8
        means.insert(2, "link_seconds", link_bits / (mbit * 1e6))
    for way in ("down", "up"):
        means[f"ratio_{way}"] = means[f"link_{way}"] / means[f"bytes_{way}"]
    before = frame[frame["round"] == 0].set_index("variant")
    return means.assign(before_link_down=before["link_down"], before_link_up=before["link_up"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mbit", type=float, default=1.0, help="of each link, in each direction; 0 for no limit")
    parser.add_argument("--rounds", type=int, default=4, help="the last is not in the means")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="settings of each run, in quotes if several")
    parser.add_argument("--csv", type=Path, help="where the measurements are written")
    options, overrides = parser.parse_known_args()
    if sys.platform != "linux" or os.geteuid() != 0:
        raise SystemExit("error: network namespaces and limited links need Linux and root: try sudo.")
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        raise SystemExit(f"error: {' and '.join(missing)} cannot be found: install iproute2.")
    if options.rounds < 2:
        raise SystemExit(
            f"error: --rounds {options.rounds} is the last alone, which is not in the means: choose 2 or more."
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that kill, too, leaves nothing behind
    # Devices evaluate along with training; here only before and after, so that a row has one round in it.
    words = [*WORDS, f"rounds={options.rounds}", f"evaluate_every={options.rounds}", *overrides]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary, network(Path(temporary), options.mbit) as (server, devices):
        folder = Path(temporary)
        start_federation(folder, server, devices)
        for number, variant in enumerate(options.variants):
            played = play(server, [*words, *variant.split()], folder / f"run{number}")
            rows += [{"variant": variant, **row} for row in played]
            print(f"{variant}: {sum(row['seconds'] for row in played):.0f} s", file=sys.stderr, flush=True)
    if options.csv:
        pd.DataFrame(rows).assign(mbit=options.mbit).to_csv(options.csv, index=False)
    print(f"{options.mbit:g} Mbit/s for each device in each direction" if options.mbit else "links without limit")
    print(table(rows, options.mbit).round(2).T.to_string())


if __name__ == "__main__":
    main()
