"""The models of a finished run as a user of Python has them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from datasets.examples import evaluation_batches
from fedsim.config.paths import expanded
from fedsim.methods.interfaces import PLAIN
from fedsim.trained.export import export
from fedsim.trained.models import Models
from fedsim.trained.pixels import Images, pixels_of
from fedsim.trained.predictor import Predictor


class Trained:
    """The models of a run, which predict and can be exported.

    ``client=None`` is the global model everywhere, and a number the client's own model.

    Raises:
        UserError: If the run is not finished, its models are on devices, or a file of it is damaged.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._models = Models(run_dir)
        self._last: tuple[tuple[int | None, str], Predictor] | None = None

    @property
    def clients(self) -> range:
        """The numbers of the clients."""
        return self._models.clients

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of a prediction's columns."""
        return self._models.classes

    def model(self, client: int | None = None, *, predictor: str = PLAIN) -> Predictor:
        """Return a trained model in eval mode, from normalized images (``preprocess``) to logits (N, classes).

        ``model.network`` is the network itself, whose entries have the names of ``model.safetensors``.

        Raises:
            UserError: If there is no such model or predictor.
        """
        return self._models.predictor(client, predictor)

    def predictors(self, client: int | None = None) -> list[str]:
        """Return the names of a model's predictors; the plain one's is empty.

        Raises:
            UserError: If there is no such model.
        """
        return self.model(client).names(self._models.image_shape)

    def preprocess(self, images: Images) -> torch.Tensor:
        """Return images as the networks of this run take them, normalized as in an evaluation.

        Args:
            images: uint8 (N, height, width, channels) as a numpy array, or (N, channels, height, width) as a tensor of
                uint8 or of floats from 0 to 1.

        Raises:
            UserError: If the images are of another form or size.
        """
        return self._models.transform(pixels_of(images, self._models.image_shape), None)

    def predict(
        self, images: Images, client: int | None = None, *, predictor: str = PLAIN, logits: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return the probabilities of the classes, (N, classes), as float32.

        Args:
            images: As ``preprocess`` takes them.
            client: The client whose model predicts; ``None`` for the global model.
            predictor: The name of a further predictor of the method, such as ``realigned``.
            logits: Whether to return what the softmax makes the probabilities of.

        Raises:
            UserError: If there is no such model or predictor, or the images are of another form or size.
        """
        pixels = pixels_of(images, self._models.image_shape)
        model = self._kept(client, predictor)
        found = np.zeros((len(pixels), len(self.classes)), np.float32)
        with torch.no_grad():
            for indices in evaluation_batches(len(pixels)):
                answer = model(self._models.transform(pixels[indices], None))
                found[indices.numpy()] = (answer if logits else answer.softmax(1)).numpy()
        return found

    def _kept(self, client: int | None, predictor: str) -> Predictor:
        """Return a model, from the call before if it was asked for then: many predict one image after the other."""
        if self._last is None or self._last[0] != (client, predictor):
            self._last = (client, predictor), self.model(client, predictor=predictor)
        return self._last[1]

    def export(self, path: Path | str, client: int | None = None, *, predictor: str = PLAIN) -> Path:
        """Write a model as ``.onnx`` or ``.pt2``, for batches of any size; return where it is. ``~`` is the home.

        The input ``images`` are normalized: float32, pixels from 0 to 1 less ``mean`` over ``std``, which stand with
        the ``classes`` in the file's metadata ``fedsim.json``. The output is ``logits``.

        Raises:
            UserError: If there is no such model or predictor, the file has another ending, or a package is missing.
            FileError: If the file cannot be written.
        """
        file, transform = Path(expanded("export", path)), self._models.transform
        metadata = {"classes": self.classes, "mean": transform.mean, "std": transform.std}
        export(self.model(client, predictor=predictor), file, self._models.image_shape, metadata)
        return file
