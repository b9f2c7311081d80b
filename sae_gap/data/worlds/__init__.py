"""Worlds as hard as real ones: features with frequencies, correlations and hierarchy, after
SynthSAEBench.
"""
