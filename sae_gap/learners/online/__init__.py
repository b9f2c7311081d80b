"""Dictionary learning from a stream of signals."""
