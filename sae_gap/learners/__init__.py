"""Learners of models, one family a file."""
