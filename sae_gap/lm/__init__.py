"""A language model to record activations from and to put reconstructions back into."""
