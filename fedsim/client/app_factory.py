"""Makes the ``ClientApp`` of every engine: the client host, the diagnosis and the injected faults behind one app."""

from dataclasses import dataclass

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from datasets.federation import Federation
from fedsim.client.diagnosis_queries import DiagnosisQueries
from fedsim.client.host import ClientHost
from fedsim.client.injected_faults import injecting
from fedsim.config.settings import Settings
from fedsim.engines.client_call import with_own_records
from fedsim.engines.faults import faults_of
from fedsim.messages.groups import ADD_UP
from fedsim.messages.schema import config_of
from fedsim.methods.reply_checks import ReplyChecks


@dataclass(frozen=True)
class ClientAppFactory:
    """Makes the ``ClientApp`` in the process that runs it; small enough to be sent there, except for the images."""

    settings: Settings
    federation: Federation
    on_device: bool = False
    """Whether the process is a real device."""

    def __call__(self, device: torch.device) -> ClientApp:
        """Return the app, whose clients compute on ``device``."""
        host = self.host(device)
        return self.app_of(host, host.train)

    def host(self, device: torch.device) -> ClientHost:
        """Return the host of the clients."""
        return ClientHost(self.settings, self.federation, device, on_device=self.on_device)

    def app_of(self, host: ClientHost, train: ClientAppCallable) -> ClientApp:
        """Return the app of a host, in which ``train`` handles the messages that ask for training."""

        def with_algorithms(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
            with host.algorithms():
                return call_next(message, context)

        checks = ReplyChecks(self.federation, host.initial, self.settings.update_limit, metrics=self.settings.metrics)

        def checked(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
            if ADD_UP not in config_of(message):
                return call_next(message, context)
            asked = with_own_records(message)  # a trainer may change those that it is given
            return checks.checked(asked, call_next(message, context))

        faults = faults_of(self.settings.faults, self.settings.seed)
        app = ClientApp(mods=[checked, with_algorithms, *([] if faults is None else [injecting(faults)])])
        app.train()(train)
        app.evaluate()(host.evaluate)
        app.evaluate("global_model")(host.evaluate_global)
        app.query("method")(host.query)
        app.query("state")(host.state)
        diagnosis = DiagnosisQueries(host, self.settings)
        app.query("activations")(diagnosis.activations)
        app.query("class_scatter")(diagnosis.class_scatter)
        return app
