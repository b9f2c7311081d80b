"""The suite held against independent implementations."""
