"""Where samples come from: the paper's model, worlds with hierarchy, and a user's activations."""
