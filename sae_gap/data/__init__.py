"""The sources of samples: the paper's model, worlds with hierarchy, and a user's activations."""
