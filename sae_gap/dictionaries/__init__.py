"""A dictionary of one's own activations, learned or given."""
