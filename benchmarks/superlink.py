"""How many devices one SuperLink serves: ``python benchmarks/superlink.py --nodes 10 100 --rounds 6 --csv FILE``.

A SuperLink on loopback, without TLS, and SuperNodes that are light: each registers, beats, asks for messages and sends
replies over a connection of its own, as Flower's SuperNode does and as often, but all are threads of one process, in
which the ClientApp answers one message after the other. What is measured is the server: rounds per minute, processor
time and memory of the SuperLink and of the ServerApp that it starts. A SuperNode looks for a message every three
seconds, so that a round does not take less.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
from flwr.app import Context, Message, RecordDict
from flwr.common.config import get_fused_config_from_fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, push_objects
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from benchmarks.processes import ProcessTree
from fedsim.app import client_app
from tests.fedsim.deployment.devices.lab import Lab

ROOT = Path(__file__).resolve().parent.parent
BETWEEN_QUESTIONS = 3.0
"""Seconds that Flower's SuperNode waits when there is no message."""
ONE_AT_A_TIME = threading.Lock()


class LightNode:
    """A SuperNode without processes of its own."""

    def __init__(self, partition: int) -> None:
        self._config = {"partition-id": partition}
        self._contexts: dict[int, Context] = {}

    def serve(self, address: str) -> None:
        """Register at the SuperLink, and answer its messages until the process ends."""
        with http_request_response(address, insecure=True) as connection:
            node_id, receive, send, get_run, get_fab, pull, push, confirm = connection
            while True:
                received = receive()
                if received is None:
                    time.sleep(BETWEEN_QUESTIONS)
                    continue
                run_id = received[0].metadata.run_id
                try:
                    if run_id not in self._contexts:
                        run = get_run(run_id)
                        words = get_fused_config_from_fab(get_fab(run.fab_hash, run_id).content, run)
                        self._contexts[run_id] = Context(run_id, node_id, self._config, RecordDict(), words)
                    message = pull_and_inflate_object_from_tree(
                        received[1], partial(pull, run_id), partial(confirm, run_id), return_type=Message
                    )
                    message.metadata.__dict__["_message_id"] = received[0].metadata.message_id
                    started = time.monotonic()
                    with ONE_AT_A_TIME:
                        reply = client_app.app(message, self._contexts[run_id])
                    self._reply(reply, time.monotonic() - started, send, push)
                except RunNotRunningException:
                    continue

    @staticmethod
    def _reply(reply: Message, seconds: float, send: Any, push: Any) -> None:
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            wanted, session = send(reply, get_object_tree(reply), seconds)
            push_objects(objects, partial(push, reply.metadata.run_id, session), object_ids_to_push=wanted)


def serve_all(address: str, nodes: int) -> None:
    """Be all SuperNodes, until the process is ended."""
    client_app._host = cache(client_app._host.__wrapped__)  # a process hosts one device elsewhere, here all of them
    threads = [threading.Thread(target=LightNode(number).serve, args=(address,)) for number in range(nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def served(lab: Lab, nodes: int) -> Iterator[None]:
    log = lab.folder / "nodes.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", lab.address, "--nodes", str(nodes)], stdout=output, stderr=output
        )
    try:
        yield
        if process.poll() is not None:
            raise SystemExit(f"the SuperNodes ended:\n{log.read_text()}")
    finally:
        process.kill()
        process.wait()


def measured(nodes: int, rounds: int, words: list[str]) -> dict[str, Any]:
    """Return the row of a federation of so many nodes.

    Raises:
        SystemExit: If the run fails; with what it said.
    """
    with tempfile.TemporaryDirectory() as temporary:
        lab = Lab(Path(temporary))
        try:
            lab.connect("load", "insecure = true")
            link = lab.start_superlink(tls=False)
            tree = ProcessTree(link.pid)
            before = tree.read()
            small = ("split=iid", f"split.num_clients={nodes}", "dataset.image_size=16")
            more = ("evaluate_every=1000", "pictures=false", "device=cpu", f"rounds={rounds}")
            out_dir = Path(temporary, "run")
            overrides = " ".join([*small, *more, f"out_dir={out_dir}", *words])
            with served(lab, nodes):
                started = time.monotonic()
                done = lab.flwr(
                    *("run", str(ROOT), "load", "--stream", "--run-config", f'overrides="{overrides}"'), timeout=3600
                )
                seconds = time.monotonic() - started
            used, link_seconds = tree.read() - before, tree.own_seconds
            tree.close()
            reached = pd.read_csv(out_dir / "rounds.csv") if (out_dir / "rounds.csv").exists() else pd.DataFrame()
            if reached.empty or reached["round"].max() < rounds:  # flwr run --stream ends with 0 all the same
                nodes_log = (lab.folder / "nodes.log").read_text()
                raise SystemExit(f"the run has failed:\n{done.stdout}{done.stderr}\nThe nodes:\n{nodes_log}")
            trained = reached[reached["round"].between(1, rounds - 1)]  # the last one has an evaluation in it
            return {
                "nodes": nodes,
                "rounds": rounds,
                "seconds_of_a_round": trained["seconds"].median(),
                "rounds_per_minute": 60 / trained["seconds"].median(),
                "seconds_of_the_run": seconds,
                "superlink_cpu_seconds": link_seconds,
                "all_cpu_seconds": used,
                "peak_mb": tree.peak_mb,
            }
        finally:
            lab.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--csv", type=Path, help="where the measurements are written")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options, words = parser.parse_known_args()
    if options.serve:
        serve_all(options.serve, options.nodes[0])
        return
    rows = []
    for nodes in options.nodes:
        rows.append(measured(nodes, options.rounds, words))
        table = pd.DataFrame(rows)
        print(table.tail(1).round(2).to_string(index=False), flush=True)
        if options.csv:
            table.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
