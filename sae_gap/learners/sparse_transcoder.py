"""Transcoders: an encoder that reads one activation, and a dictionary that explains another."""

from dataclasses import replace

import jax.numpy as jnp
from jax import random
from jax.numpy import concatenate, zeros

from sae_gap.core import Split, Task, Transcoder, option
from sae_gap.encoders import regression, unit_atoms
from sae_gap.learners import SparseAutoencoder, few, random_atoms, unscaled
from sae_gap.learners.sparse_autoencoder import scales


class SparseTranscoder(SparseAutoencoder):
    """Trains as `SparseAutoencoder` does, on `mean (y - b - x W_s - D z(x))² + penalty · P(z)` with
    inputs x and targets y, each standardised by itself.

    The encoder starts as `a M D` with the ridge regression M of y on x and the gain a of
    `SparseAutoencoder.standardised`, and D at random or as the base's dictionary, which explains
    the targets; the skip W_s starts at zero. Beside a skip, `learning_rate=None` takes a third of
    an SAE's rate for an encoder without a penalty, most of whose latents would die at an SAE's.

    Args:
      skip: whether an affine skip of the inputs, `x W_s`, is trained along.

    References:
      Dunefsky, Chlenski & Nanda (2024), arXiv:2406.11944. Paulo, Shabalin & Belrose (2025),
      arXiv:2501.18823.
    """

    transcodes = True

    skip: bool = option(default=False, kw_only=True)

    def __check_init__(self):
        super().__check_init__()
        if not self.encoder.reads_inputs:
            raise ValueError(
                f"{self.encoder.name} takes residuals of what it explains, which a transcoder does "
                "not read; give an encoder such as topk."
            )

    @property
    def name(self):  # type: ignore[override]
        return (
            super().name
            if self.frozen
            else f"{self.encoder.name}_{'skip_' * self.skip}transcoder"
        )

    @property
    def peak_rate(self):  # type: ignore[override]
        return 0.4 if self.skip and self.l0 is None else super().peak_rate

    def needs(self, task: Task) -> str | None:
        return "inputs" if task.train.inputs is None else super().needs(task)

    def select(self, task: Task) -> Split:
        return replace(super().select(task), inputs=task.train.inputs)

    def init(self, data, *, num_latents, key, base=None):
        x = data.inputs
        y = data.signals
        dtype = data.signals.dtype
        weights_key, parameters_key, key = random.split(key, 3)
        (middle, own) = scales(x)
        (mean, unit) = scales(y)
        num_inputs = x.shape[1]
        dim = y.shape[1]
        if base is None:
            atoms = random_atoms(weights_key, y, num_latents)
            bias = zeros(dim)
        else:
            atoms = unit_atoms(base.decoder)[0]
            bias = (base.bias - mean) / unit
        inputs = (x - middle) / own
        slope = regression(inputs, (y - mean) / unit)
        gain = self._gain(atoms, few(inputs) @ slope)
        parameters = self.encoder.parameters(gain * (slope @ atoms), parameters_key)
        skip = zeros((num_inputs, dim), dtype) if self.skip else None
        model = Transcoder(
            atoms,
            bias.astype(dtype),
            parameters,
            centre=zeros(num_inputs, dtype),
            skip=skip,
        )
        units = concatenate([jnp.full(num_inputs, own), jnp.full(dim, unit)])
        return self._started(model, y, key, concatenate([middle, mean]), units)

    def model(self, state):
        model = state.model
        middle, mean = jnp.split(state.mean, [model.num_inputs])
        # Each side has one unit.
        own = state.unit[0]
        unit = state.unit[-1]
        bias = mean + unit * model.bias
        skip = model.skip
        if skip is not None:
            skip = unit / own * skip
            bias = bias - middle @ skip
        return replace(
            model,
            dictionary=unit * model.decoder,
            bias=bias,
            encoder=unscaled(model.encoder, own),
            centre=middle + own * model.centre,
            skip=skip,
        )

    def _rows(self, data, indices):
        return concatenate([data.inputs[indices], data.signals[indices]], axis=1)
