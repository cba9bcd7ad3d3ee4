"""Flower's own simulation on Ray: its FedAvg and its message API, one core for each of the clients at once."""

from functools import cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from benchmarks.contestants.cases import Task
from benchmarks.contestants.networks import network_of
from benchmarks.contestants.record import Record
from benchmarks.contestants.training import Clients, tested, train


@cache
def built(text: str) -> tuple[Clients, nn.Module]:
    """Build once in each of Ray's processes, though Flower's examples do it for each message."""
    torch.set_num_threads(1)
    return Clients(Task.of(text)), network_of(Task.of(text))


def client_app(text: str) -> ClientApp:
    app = ClientApp()

    def received(message: Message) -> tuple[Clients, nn.Module]:
        clients, model = built(text)
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        return clients, model

    @app.train()
    def fit(message: Message, context: Context) -> Message:
        clients, model = received(message)
        server_round = int(message.content.config_records["config"]["server-round"])
        seen, loss = train(model, *clients.examples(int(context.node_config["partition-id"]), server_round))
        metrics = MetricRecord({"num-examples": seen, "loss": loss})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        clients, model = received(message)
        images, labels = clients.tests(int(context.node_config["partition-id"]))
        loss, right = tested(model, images, labels)
        metrics = MetricRecord({"num-examples": len(labels), "loss": loss, "right": right})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def main(task: Task, record: Record) -> None:
    case = task.what
    images: list[int] = []
    losses: list[float] = []
    server = ServerApp()

    def summed(replies: list[RecordDict], key: str) -> MetricRecord:
        metrics = [next(iter(reply.metric_records.values())) for reply in replies]
        images.append(sum(int(each["num-examples"]) for each in metrics))
        losses.append(sum(float(each["loss"]) for each in metrics) / images[-1])
        return MetricRecord({"loss": losses[-1]})

    def after_round(server_round: int, arrays: ArrayRecord) -> None:
        if server_round > 0:
            record.round_done()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_train=case.cohort / case.clients,
            fraction_evaluate=float(case.evaluates),
            min_train_nodes=case.cohort,
            min_available_nodes=case.clients,
            train_metrics_aggr_fn=summed,
        )
        state = network_of(task).state_dict()
        strategy.start(grid, ArrayRecord(state), num_rounds=task.rounds, evaluate_fn=after_round)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": task.workers}}
    run_simulation(server, client_app(task.text()), case.clients, backend_config=resources)
    record.finish(images, losses)
