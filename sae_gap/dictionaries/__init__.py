"""A dictionary of a user's activations, learned or given."""
