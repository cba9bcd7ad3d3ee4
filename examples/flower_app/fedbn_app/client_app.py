"""The client: trains all of the network, and keeps its BatchNorm layers from round to round in ``context.state``.

FedBN sends no entry of a BatchNorm layer. So what a message lacks is the client's own, and no name has to be compared.
A Flower client may be another process for each message; ``context.state`` is what comes along.
"""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedbn_app.task import accuracy, make_examples, make_model, train

app = ClientApp()
BATCH_NORM = "batch-norm"


@app.train()
def train_one_round(message: Message, context: Context) -> Message:
    """Reply with what was received, trained; keep the rest."""
    model, received = own_model(message, context)
    examples = make_examples(int(context.node_config["partition-id"]), "train")
    loss = train(model, examples, float(message.content["config"]["lr"]))
    trained = model.state_dict()
    context.state[BATCH_NORM] = ArrayRecord({name: trained[name] for name in trained if name not in received})
    arrays = ArrayRecord({name: trained[name] for name in received})
    metrics = MetricRecord({"num-examples": len(examples[1]), "loss": loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Reply with the accuracy of this client's model, the received and its own part, on its own test images."""
    model, _ = own_model(message, context)
    examples = make_examples(int(context.node_config["partition-id"]), "test")
    metrics = MetricRecord({"num-examples": len(examples[1]), "accuracy": accuracy(model, examples)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def own_model(message: Message, context: Context) -> tuple[nn.Module, set[str]]:
    """Return the network of this client, and the names of what the server sent of it."""
    model = make_model()
    received = message.content["arrays"].to_torch_state_dict()
    kept = context.state[BATCH_NORM].to_torch_state_dict() if BATCH_NORM in context.state else {}
    model.load_state_dict({**model.state_dict(), **kept, **received})
    return model, set(received)
