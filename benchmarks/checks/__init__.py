"""Checks of the suite against independent implementations."""
