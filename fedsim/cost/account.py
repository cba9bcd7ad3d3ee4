"""The rules by which operations and bytes are counted.

For one image, a weight tensor of n numbers of which m are active, and p output positions:

* forward: 2 m p FLOPs. Each active weight does one multiply-add, which is two operations, at each position, including
  zeros of the padding; for a model with all its weights this equals ``torch.utils.flop_counter``, with attention, which
  the latter leaves out on the CPU.
* backward: the same again for the gradient of the input, and once more for that of the active weights, so that a step
  costs three forward passes. This includes the first layer's input gradient, which is not needed; a frozen weight has
  no gradient.
* If the gradient of *all* weights of a layer is computed, that part is 2 n p, for each image of those steps.
* Biases, norm layers, activation functions, pooling, the loss, the optimizer and sorting are not counted.

These rules reproduce the ratios to training all weights that are published for FedTiny (Huang et al., ICDCS 2023,
arXiv 2212.01977), with the complete first convolution and 1 % of all other weights. FedTiny's memory ratios do not
include activations; here the memory of a device is the sum in ``ModelCost.device_memory``, which does.
"""

from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass

from fedsim.core.errors import UserError
from fedsim.cost.sizes import VALUE_BYTES, pair_bytes, partial_bytes

Shares = Mapping[str, float]
"""The share of active weights, from 0 to 1, by name of the layer; 1 for layers that are not named."""


@dataclass(frozen=True)
class LayerCost:
    """One module that has parameters of its own; fields are counts of numbers, not bytes, for one image."""

    weights: int
    """Number of weights of a convolution or linear layer, of which a device may have a share; else 0."""
    weights_trained: bool
    others: int
    """Number of other parameters, of which a device has all: biases, affine parameters of norm layers."""
    others_trained: int
    positions: int
    """Number of pixels, or rows, of the output, at each of which each weight does one multiply-add."""
    outputs: int
    """Number of values in the output."""

    def flops(self, kept: int) -> int:
        """Return the FLOPs of the forward pass with ``kept`` active weights."""
        return 2 * kept * self.positions


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on a device in one training step, by purpose."""

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
    """The counts of a model, from ``model_cost``, and the costs that follow from them.

    Raises:
        UserError: In any method, if a share is not in [0, 1], or a name is not that of a layer with weights.
    """

    layers: dict[str, LayerCost]
    elsewhere: int
    """FLOPs of the forward pass, for one image, of products outside these layers, such as attention."""
    buffers: int
    """Bytes of buffers, such as running statistics."""
    activations: int
    """Bytes that are saved for the backward pass, for each image of a batch."""
    intermediates: int
    """Bytes that are saved independently of the batch size, such as standardized weights."""

    def forward_flops(self, images: int = 1, shares: Shares | None = None) -> int:
        """Return the FLOPs of a forward pass of ``images`` images."""
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
        """Return the FLOPs of training on ``images`` images, each counted as often as it is used.

        Operations outside of layers have a backward pass if gradients go through every layer.

        Args:
            images: Number of images.
            shares: Share of active weights by layer.
            full_gradient_images: Number of these images for which gradients of all weights are computed.
            full_gradient_layers: The layers in which they are; ``None`` for all.
            trained: The layers whose weights get gradients; ``None`` for all that are not frozen.
            through: The layers whose inputs get gradients; ``None`` for all.

        Raises:
            UserError: If ``full_gradient_images`` is not from 0 to ``images``.
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
        """Return the additional FLOPs of gradients of all weights, for ``images`` images and these layers, or all."""
        kept, full = self._kept(shares), self._named(layers)
        return images * sum(
            layer.flops(layer.weights - kept[name])
            for name, layer in self.layers.items()
            if name in full and layer.weights_trained
        )

    def beside_flops(self, images: int, layers: Collection[str]) -> int:
        """Return the FLOPs of linear layers that are trained beside the model, on one row of features for each image.

        These are a forward pass and the gradient of the weights; the rows do not get a gradient.
        """
        return sum(2 * 2 * images * self.layers[name].weights for name in self._named(layers))

    def weight_bytes(self, shares: Shares | None = None) -> int:
        """Return the bytes of all parameters, in memory or in a message: each layer in its smaller form.

        A layer is stored either dense, or as its active weights and their indices or bitmap.
        """
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
        """Return the memory of a training step on a device that holds numbers for active weights only.

        Activations are counted completely. Workspace of kernels and the two numbers per channel that BatchNorm saves in
        training are not counted.

        Args:
            batch_size: Number of images.
            shares: Share of active weights by layer.
            optimizer_states: Numbers of optimizer state for each trained number: 1 for momentum, 2 for Adam.
            full_gradients: The layers with gradients of all their weights.
            top_k: The largest number of (index, value) pairs that the device collects at a time.
            full_gradient_vectors: Further numbers for each weight of the layers in ``full_gradients``.
            trained: The layers with gradients and optimizer state; ``None`` for all that are not frozen.
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
        """Return the number of active weights of each layer."""
        shares = shares or {}
        self._named(shares)
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"a share of {share} for {name} is not possible: choose a number from 0 to 1.")
        return {name: round(shares.get(name, 1) * layer.weights) for name, layer in self.layers.items()}

    def _named(self, names: Collection[str] | None) -> Collection[str]:
        """Return the names, checked to be those of layers with weights; all such layers for ``None``."""
        known = [name for name, layer in self.layers.items() if layer.weights]
        for name in names or ():
            if name not in known:
                raise UserError(f"{name} is no layer with weights of this network: choose {', '.join(known)}.")
        return known if names is None else names
