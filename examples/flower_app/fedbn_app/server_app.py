"""The server: fedsim's FedBN in the loop that every Flower strategy has."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from fedbn_app.task import make_model
from fedsim.strategies import FedBN

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and print the mean accuracy of the clients' own models after each round."""
    config = context.run_config
    torch.manual_seed(int(config["seed"]))
    model = make_model()
    result = FedBN(model).start(
        grid,
        ArrayRecord(model.state_dict()),
        num_rounds=int(config["rounds"]),
        train_config=ConfigRecord({"lr": float(config["lr"])}),
    )
    for number, metrics in result.evaluate_metrics_clientapp.items():
        print(f"round {number}: accuracy {metrics['accuracy']:.3f}")
