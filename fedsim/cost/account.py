"""The rules by which operations and bytes are counted.

For one image, a weight tensor of n numbers of which m are kept, and p output positions:

* forward: 2 m p FLOPs. Each kept weight does one multiply-add, which is two operations, at each position, zeros of the
  padding included; of a model with all its weights that is what ``torch.utils.flop_counter`` counts.
* backward: the same again for the gradient of the input, and once more for that of the kept weights, so that a step
  costs three forward passes. The first layer's input gradient, which nobody needs, is in it; a frozen weight has no
  gradient.
* Where the gradient of *all* weights of a layer is computed, that part is 2 n p, for each image of those steps.
* Biases, norm layers, activation functions, pooling, the loss, the optimizer and sorting are not counted.

By these rules the ratios to training all weights come out that are published for FedTiny (Huang et al., ICDCS 2023,
arXiv 2212.01977), with the first convolution whole and 1 % of all other weights. Its memory ratios leave
activations out, so for memory they are not the rule here: a device needs what ``ModelCost.device_memory`` adds up.
"""

from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass

from fedsim.core.errors import UserError
from fedsim.cost.sizes import VALUE_BYTES, pair_bytes, partial_bytes

Shares = Mapping[str, float]
"""The share of weights kept, from 0 to 1, by the name of the layer; a layer that is not named keeps all."""


@dataclass(frozen=True)
class LayerCost:
    """One module that has parameters of its own; numbers are counts, not bytes, and for one image."""

    weights: int
    """Of a convolution or linear layer: the numbers of which a device may have a share. 0 for any other module."""
    weights_trained: bool
    others: int
    """The other parameters, of which a device has all: biases, scales and shifts of norm layers."""
    others_trained: int
    positions: int
    """Pixels, or rows, of the output, at each of which each weight does one multiply-add."""
    outputs: int
    """Numbers in the output."""

    def flops(self, kept: int) -> int:
        """Of the forward pass if so many weights are kept."""
        return 2 * kept * self.positions


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on a device in one training step, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    top_k: int

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class ModelCost:
    """What there is to count in a model, as ``model_cost`` found it.

    Errors: ``UserError`` for a share that is not from 0 to 1, or a name that is no layer with weights.
    """

    layers: dict[str, LayerCost]
    elsewhere: int
    """FLOPs of the forward pass, for one image, of products outside these layers, such as attention."""
    buffers: int
    """Bytes of running statistics and the like."""
    activations: int
    """Bytes that are kept for the backward pass, for each image of a batch."""
    intermediates: int
    """Bytes that are kept whatever the size of the batch, such as standardized weights."""

    def forward_flops(self, images: int = 1, shares: Shares | None = None) -> int:
        """Of evaluating so many images."""
        kept = self._kept(shares)
        return images * (self.elsewhere + sum(layer.flops(kept[name]) for name, layer in self.layers.items()))

    def training_flops(
        self,
        images: int,
        shares: Shares | None = None,
        full_gradient_images: int = 0,
        full_gradient_layers: Collection[str] | None = None,
        trained: Collection[str] | None = None,
        through: Collection[str] | None = None,
    ) -> int:
        """Of training on so many images, each counted as often as it is seen.

        For ``full_gradient_images`` of them the gradient of all weights is computed, in ``full_gradient_layers``, or in
        all layers. Only the ``trained`` layers get gradients, and only the inputs of those it goes ``through``;
        ``None`` is all there are. What is outside of layers has a backward pass if a gradient goes through every layer.
        """
        if not 0 <= full_gradient_images <= images:
            raise UserError(
                f"{full_gradient_images} of {images} images cannot have gradients of all weights: choose at most "
                f"{images}."
            )
        kept = self._kept(shares)
        total = images * (3 if through is None else 1) * self.elsewhere
        for name, layer in self.layers.items():
            forward = layer.flops(kept[name])
            own = layer.weights_trained and (trained is None or name in trained)
            total += images * (1 + own + (through is None or name in through)) * forward
        return total + self.full_gradient_flops(full_gradient_images, shares, full_gradient_layers)

    def full_gradient_flops(
        self, images: int, shares: Shares | None = None, layers: Collection[str] | None = None
    ) -> int:
        """What it takes more to have, for so many images, the gradients of all weights of these layers, or of all."""
        kept, full = self._kept(shares), self._named(layers)
        return images * sum(
            layer.flops(layer.weights - kept[name])
            for name, layer in self.layers.items()
            if name in full and layer.weights_trained
        )

    def beside_flops(self, images: int, layers: Collection[str]) -> int:
        """Of linear layers that are trained beside the model, each on one row of numbers for each image: a forward
        pass, and the gradient of the weights. No gradient goes on to what the rows come from."""
        return sum(2 * 2 * images * self.layers[name].weights for name in self._named(layers))

    def weight_bytes(self, shares: Shares | None = None) -> int:
        """Of all parameters, in memory or in a message: each layer whole or in part, whichever is less."""
        kept = self._kept(shares)
        return sum(
            VALUE_BYTES * layer.others + min(VALUE_BYTES * layer.weights, partial_bytes(layer.weights, kept[name]))
            for name, layer in self.layers.items()
        )

    def device_memory(
        self,
        batch_size: int,
        shares: Shares | None = None,
        optimizer_states: int = 0,
        full_gradients: Collection[str] = (),
        top_k: int = 0,
        full_gradient_vectors: int = 0,
        trained: Collection[str] | None = None,
    ) -> DeviceMemory:
        """Of a training step on a device whose tensors have as many numbers as its weights.

        Gradients of the ``trained`` layers, ``None`` for all that are, and what the optimizer keeps of them
        (``optimizer_states`` numbers for each: 1 is momentum, 2 is Adam), have as many as the weights; the layers of
        ``full_gradients`` hold gradients of all their weights, and ``full_gradient_vectors`` further numbers for each
        of these. ``top_k`` is the largest number of (index, value) pairs that the device collects at a time.
        Activations are whole. What a kernel needs while it runs and the two numbers per channel that BatchNorm keeps in
        training are not counted.
        """
        kept, full = self._kept(shares), self._named(full_gradients)
        gradients = states = 0
        for name, layer in self.layers.items():
            if trained is not None and name not in trained:
                continue
            numbers = layer.others_trained + layer.weights_trained * kept[name]
            states += optimizer_states * numbers
            gradients += numbers
            if name in full and layer.weights_trained:
                gradients += layer.weights - kept[name] + full_gradient_vectors * layer.weights
        return DeviceMemory(
            weights=self.weight_bytes(shares),
            gradients=VALUE_BYTES * gradients,
            optimizer=VALUE_BYTES * states,
            activations=batch_size * self.activations + self.intermediates,
            buffers=self.buffers,
            top_k=pair_bytes(top_k),
        )

    def _kept(self, shares: Shares | None) -> dict[str, int]:
        """How many weights each layer keeps."""
        shares = shares or {}
        self._named(shares)
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"a share of {share} for {name} is not possible: choose a number from 0 to 1.")
        return {name: round(shares.get(name, 1) * layer.weights) for name, layer in self.layers.items()}

    def _named(self, names: Collection[str] | None) -> Collection[str]:
        """The names, each that of a layer with weights; all of these for ``None``."""
        known = [name for name, layer in self.layers.items() if layer.weights]
        for name in names or ():
            if name not in known:
                raise UserError(f"{name} is no layer with weights of this network: choose {', '.join(known)}.")
        return known if names is None else names
