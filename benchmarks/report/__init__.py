"""Pages of results, and their agreement with the published ones."""
