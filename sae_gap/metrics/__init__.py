"""Scores of a method, each tested against an independent implementation, one topic a file."""
