"""The models of a finished run, read from its run directory without its images."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from flwr.app import RecordDict
from safetensors.torch import load_file

from datasets.transforms import Transform
from fedsim.client.hosted_model import HostedModel
from fedsim.config.settings import settings_in
from fedsim.core.errors import UserError
from fedsim.core.files import reading
from fedsim.methods.interfaces import PLAIN, ClientContext
from fedsim.norms.policy import NONE, REESTIMATED
from fedsim.output.model_files import EVALUATION, MODEL, SHARED, client_file, load_evaluation
from fedsim.output.provenance import MEAN, OWN_MODELS, STD, Provenance
from fedsim.trained.predictor import Predictor

Tensors = Mapping[str, torch.Tensor]


class Models:
    """The global model of a run and those of its clients, on the CPU.

    Raises:
        UserError: If the run is not finished, its models are on devices, or a file of it is damaged.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        settings = settings_in(run_dir)
        # All weights come from the run directory: the file that training began with need not be there any more.
        self.settings = replace(settings, model={**settings.model, "pretrained": None})
        if not (run_dir / MODEL).is_file():
            reason = "it was stopped before its end: go on with resume="
            if (run_dir / SHARED).is_file():
                reason = "its devices have kept their part of the model: choose a run whose devices share it"
            raise UserError(f"{run_dir} holds no {MODEL}, since {reason}.")
        self.provenance = Provenance.load(run_dir)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.provenance.data.classes

    @property
    def clients(self) -> range:
        return range(len(self.provenance.data.clients))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.provenance.data.image_shape
        return channels, height, width

    @cached_property
    def transform(self) -> Transform:
        """The normalization of the data set, without augmentation.

        Raises:
            UserError: If the run is of a version that did not store it.
        """
        stored = self.provenance.prediction
        if not stored:
            raise UserError(
                f"{self.run_dir} is of a version that did not store how images are normalized: choose a newer run."
            )
        return Transform(tuple(stored[MEAN]), tuple(stored[STD]))

    def predictor(self, client: int | None = None, name: str = PLAIN) -> Predictor:
        """Return the global model, or a client's own, with one of its predictors.

        Raises:
            UserError: If there is no such client or predictor, or the client's model is not in the run directory.
        """
        entries = self._entries(client)
        host = self._host
        file = self.run_dir / MODEL if client is None else client_file(self.run_dir, client)
        with reading(file, errors=RuntimeError):
            host.loader.load(entries)  # whose error names the entries of another network
        sent = RecordDict() if client is None else self._records
        context = ClientContext(round=self.settings.rounds, sent=sent, own=client is not None)
        made = Predictor(host, context, name)
        names = made.names(self.image_shape)
        if name not in names:
            known = ", ".join(map(repr, names))
            raise UserError(f"predictor={name!r} is not known of this model: choose {known}.")
        return made

    @cached_property
    def _host(self) -> HostedModel:
        norm = self.settings.norm
        if norm.get("statistics") == NONE and norm.get("evaluation") == REESTIMATED:
            raise UserError(
                f"norm.evaluation={REESTIMATED} with norm.statistics={NONE} needs the training images, which "
                f"{self.run_dir} does not hold: choose a run with norm.statistics=shared or local."
            )
        return HostedModel(self.settings, len(self.classes), self.image_shape, torch.device("cpu"))

    @cached_property
    def _records(self) -> RecordDict:
        with reading(self.run_dir / EVALUATION):
            return load_evaluation(self.run_dir)

    def _entries(self, client: int | None) -> Tensors:
        shared = _read(self.run_dir / MODEL)
        if client is None:
            return shared
        if client not in self.clients:
            raise UserError(f"client={client} is not one of {self.run_dir}: choose 0 to {self.clients[-1]}.")
        path = client_file(self.run_dir, client)
        if path.is_file():
            return {**shared, **_read(path)}
        if self.provenance.prediction.get(OWN_MODELS, True):
            raise UserError(
                f"client={client} is not possible: {self.run_dir} does not hold what clients kept, as on devices that "
                "do not share it and in runs of older versions: the global model is there."
            )
        return shared


def _read(path: Path) -> Tensors:
    with reading(path):
        return load_file(path)
