"""Storage of one partition's client state between messages: on the disk of its device, or in Flower's ``Context``."""

import logging

from flwr.app import ConfigRecord, Context, RecordDict

from fedsim.core.errors import Refusal, UserError
from fedsim.deployment.devices.node import NodeConfig
from fedsim.deployment.devices.state import AFRESH, StateDir

log = logging.getLogger(__name__)

STATE, BEFORE, TRAINED = "state", "before", "trained"
ROUND = "round"


class ClientStateStore:
    """The client state of a partition, and the one from before the round that it trained last.

    If a reply is lost, the server asks for the same training again. It then starts from the earlier state, and so has
    the same result.
    """

    def __init__(self, context: Context, node: NodeConfig, words: str, partition: int) -> None:
        self.context, self.partition = context, partition
        self.disk = None
        if node.state_dir is not None:
            self.disk = StateDir(node.state_dir, context.run_id, words, node.state_afresh, node.keep_runs)

    def load(self, training: int | None) -> RecordDict:
        """Return the client state; that from before round ``training`` if the client has trained that round already.

        Raises:
            Refusal: If the file cannot be used; the device's log names it.
        """
        if self.disk is None:
            trained = self.context.state.get(self._name(TRAINED))
            again = isinstance(trained, ConfigRecord) and training is not None and trained[ROUND] == training
            prefix = self._name(BEFORE if again else STATE)
            mine = [name for name in self.context.state if name.startswith(prefix)]
            return RecordDict({name.removeprefix(prefix): self.context.state[name] for name in mine})
        try:
            return self.disk.load(self.partition, training)
        except UserError as error:
            log.error("%s", error)
            words = f"client {self.partition} cannot use the file of what it kept, which its own log names: {AFRESH}"
            raise Refusal(words) from None

    def save(self, state: RecordDict, trained: int | None, before: RecordDict) -> None:
        if self.disk is not None:
            self.disk.save(self.partition, state, -1 if trained is None else trained, before)
            return
        for name in [name for name in self.context.state if name.startswith(self._name(""))]:
            del self.context.state[name]
        for kind, records in ((STATE, state), (BEFORE, before if trained is not None else RecordDict())):
            for name, record in records.items():
                self.context.state[self._name(kind) + name] = record
        if trained is not None:
            self.context.state[self._name(TRAINED)] = ConfigRecord({ROUND: trained})

    def _name(self, kind: str) -> str:
        return f"{self.partition}/{kind}/" if kind else f"{self.partition}/"
