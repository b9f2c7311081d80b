"""Sparse autoencoders as other libraries publish them, read without those libraries, and written
for them.
"""
