"""LotteryFL (Li et al., SEC 2021, arXiv 2008.03371): every client finds its own sparse part of a shared network."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import Mean
from fedsim.core.errors import UserError
from fedsim.cost import QueryPasses, Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import EVALUATE, TRAIN
from fedsim.methods.cached_broadcast import CachedBroadcast
from fedsim.methods.sparse.masks import Masks, apply, decode, densities, encode, entry, pack, trained_layers, unpack
from fedsim.methods.sparse.records import MASKS
from fedsim.methods.sparse.tickets import all_ones, check_tickets
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg, Tensors
from .submodels import average_of_holders, with_holders


class LotteryFL(FedAvg):
    r"""Sends each client the weights of its own mask, and averages each weight over the clients that hold it,

    .. math:: w_i \leftarrow \sum_k m_{k,i} w_{k,i} \Big/ \sum_k m_{k,i}

    over the cohort, with the masks :math:`m_k` that the clients have after the round; a weight that none of them holds
    stays as it was. The masks have all weights at first, and are made smaller by the clients
    (``clients/lotteryfl.py``), whose replies have new masks then, and weights still in the form of those that were
    sent. A client has the masks that the server knows, so that one whose reply is lost goes on with its masks from
    before.

    Biases, norm layers and the layers named by ``dense`` stay dense. The global model is the dense network.

    Args:
        dense: Layers that are not pruned.

    Raises:
        UserError: If a layer that would be pruned is frozen, or the aggregation is not the mean.
    """

    default_weighting = "uniform"
    sends_one_model = False

    def __init__(self, model: nn.Module, training: ServerTraining | None = None, *, dense: Sequence[str] = ()) -> None:
        super().__init__(model, training)
        if not isinstance(self.aggregation, Mean):
            raise UserError(
                "strategy=lotteryfl has clients send other weights of a layer each, which only an average can join: "
                "choose aggregation=mean and privacy=none."
            )
        layers = trained_layers(model, dense)
        parameters = dict(model.named_parameters())
        self.shapes = {name: parameters[entry(name)].shape for name in layers}
        self.reply_records = {MASKS: partial(check_tickets, layers=list(self.shapes))}
        self._whole = all_ones(self.shapes)
        self.masks: dict[int, Masks] = {}
        """The masks of the clients; who is absent has all weights."""
        self.tickets: dict[int, CachedBroadcast] = {}
        """By client the record of its masks."""
        self._before: Tensors = {}

    def masks_of(self, client: int) -> Masks:
        """Return the masks of a client, which has all weights before it has pruned."""
        return self.masks.get(client, self._whole)

    def ticket_of(self, client: int) -> CachedBroadcast:
        """Return the broadcast of the client's masks."""
        if client not in self.tickets:
            self.tickets[client] = CachedBroadcast(MASKS)
            self.tickets[client].change(to_record(encode(self._whole)))
        return self.tickets[client]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort, each with the weights of the client's mask."""
        self.sent = self.arrays_to_train(arrays)
        self._before = self.sent_tensors
        config = ConfigRecord({**config, **self.round_config(server_round)})
        return [
            message
            for client in self.cohort(server_round, grid)
            for message in self.ticket_of(client).attach(self._messages(TRAIN, client, server_round, config))
        ]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages to every client in the form of training."""
        self._before = to_tensors(self.arrays_to_evaluate(arrays))
        return [
            message
            for client in sorted(grid.get_node_ids())
            for message in self.ticket_of(client).attach_to_all(self._messages(EVALUATE, client, server_round, config))
        ]

    def _messages(self, type_: str, client: int, server_round: int, config: ConfigRecord) -> list[Message]:
        weights = to_record(pack(self.masks_of(client), self._before))
        return self.messages(type_, [client], server_round, weights, config)

    def read_reply(self, reply: Message) -> None:
        """Record that the client has its masks."""
        super().read_reply(reply)
        client = reply.metadata.src_node_id
        self.ticket_of(client).answered(client)

    def reply_tensors(self, reply: Message) -> Tensors:
        """Return the reply's weights and its masks, and take the masks over."""
        client = reply.metadata.src_node_id
        tensors = unpack(self.masks_of(client), super().reply_tensors(reply))
        record = reply.content.array_records.get(MASKS)
        if record is not None:
            before = self.masks_of(client)
            found = decode(to_tensors(record), self.shapes)
            self.masks[client] = {layer: mask & before[layer] for layer, mask in found.items()}
            self.ticket_of(client).change(to_record(encode(self.masks[client])))
        # What is compressed may not be quite zero where the client has pruned.
        return with_holders(apply(self.masks_of(client), tensors), self.masks_of(client))

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the averages over the holders."""
        return average_of_holders(arrays, self._before)

    def workload(self, client: int) -> Workload:
        """Return the cost of training with the client's masks, and of the pass by which it decides whether to prune."""
        return self._load(densities(self.masks_of(client)))

    def planned(self, size: float | None = None) -> Sequence[Workload]:
        """Return the cost of a client that has not pruned yet."""
        return [self._load(densities(self._whole))]

    def _load(self, shares: Mapping[str, float]) -> Workload:
        sizes = {layer: shape.numel() for layer, shape in self.shapes.items()}
        kept = sum(size * shares[layer] for layer, size in sizes.items())
        columns = {"density": kept / sum(sizes.values())}
        return Workload(shares, queries=[QueryPasses(share=1.0, shares=shares)], columns=columns)

    def state(self) -> RecordDict:
        """Return the inherited state, the masks of the clients, and which of them have theirs."""
        tickets = {
            f"{client}/{name}": record
            for client, ticket in sorted(self.tickets.items())
            for name, record in ticket.state().items()
        }
        return RecordDict({**super().state(), **tickets})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        names = [name.partition("/") for name in state if name.partition("/")[0].isdecimal()]
        self.tickets, self.masks = {}, {}
        for client in {int(client) for client, _, _ in names}:
            ticket = self.ticket_of(client)
            ticket.load_state(
                RecordDict({name: state[f"{client}/{name}"] for owner, _, name in names if owner == str(client)})
            )
            self.masks[client] = decode(to_tensors(ticket.record), self.shapes)
