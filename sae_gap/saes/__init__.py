"""Reads sparse autoencoders that other libraries published, and writes theirs, without these
libraries.
"""
