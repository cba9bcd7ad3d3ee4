"""No simulator: processes that train their share of the clients in a plain loop.

Nothing travels between processes but numbers of clients, and nothing is averaged: the state of the last client of a
process is where its next round begins. Faster than this is only who trains faster.
"""

import multiprocessing
from multiprocessing.connection import Connection

import torch

from benchmarks.contestants.cases import Task
from benchmarks.contestants.networks import network_of
from benchmarks.contestants.record import Record
from benchmarks.contestants.training import Clients, tested, train


def work(connection: Connection, task: Task) -> None:
    torch.set_num_threads(1)
    clients, model = Clients(task), network_of(task)
    while (asked := connection.recv()) is not None:
        server_round, cohort = asked
        received = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        images, losses = 0, 0.0
        for client in cohort:
            model.load_state_dict(received)
            seen, loss = train(model, *clients.examples(client, server_round))
            images, losses = images + seen, losses + loss
        if task.what.evaluates:
            for client in cohort:
                tested(model, *clients.tests(client))
        connection.send((images, losses))


def main(task: Task, record: Record) -> None:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(task.workers)]
    processes = [context.Process(target=work, args=(theirs, task), daemon=True) for _, theirs in pipes]
    for process in processes:
        process.start()
    images, losses = [], []
    for server_round, cohort in zip(range(1, task.rounds + 1), Clients(task).cohorts(), strict=False):
        for worker, (mine, _) in enumerate(pipes):
            mine.send((server_round, cohort[worker :: task.workers]))
        answers = [mine.recv() for mine, _ in pipes]
        images.append(sum(seen for seen, _ in answers))
        losses.append(sum(loss for _, loss in answers) / images[-1])
        record.round_done()
    for mine, _ in pipes:
        mine.send(None)
    for process in processes:
        process.join()
    record.finish(images, losses)
