"""Pure functions from a model and a batch of signals to codes, one family a file."""
