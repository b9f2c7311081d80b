"""The common parts of studies: presets, methods, figures and the command line."""
