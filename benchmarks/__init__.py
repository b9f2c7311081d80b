"""Binaries: each composes the library into one study or one measurement."""
