"""The linear encoder of a probe."""

from sae_gap.encoders import Encoder


class Linear(Encoder):
    """`z = (y - b) W + c`: signed codes, no sparsity."""

    signed = True

    def __call__(self, model, signals):
        return model.encoder(signals - model.bias)
