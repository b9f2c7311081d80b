"""Which devices and processes do the work."""
