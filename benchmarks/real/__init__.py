"""SAEs and dictionaries on a real model's activations."""
