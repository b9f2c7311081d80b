"""How a model is learned, one family a file."""
