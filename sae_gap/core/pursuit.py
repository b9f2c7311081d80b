"""What the screened pursuits in JAX, NumPy and PyTorch share: their name and their limits."""

# By this name configurations have it.
PURSUIT = "sae_gap_pursuit"
# Floats of the largest Gram matrix of all atoms that is held.
WHOLE = 2**27
# An atom with less than this share of its energy outside the span of those chosen adds nothing.
DEPENDENT = 1e-5
# Exchanges of all values of the wrong sign at once, and then of one at a time; hardly any sample
# takes ten.
EXCHANGES, MOST = 20, 200
# What a value may lie below zero, and a correlation above, where the signal and the atoms have unit
# norm.
SLACK = 1e-6
