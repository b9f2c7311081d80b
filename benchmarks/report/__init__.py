"""Pages of results, and how they agree with the published ones."""
