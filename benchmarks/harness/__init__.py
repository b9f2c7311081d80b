"""What the studies share: presets, methods, figures and the command line."""
