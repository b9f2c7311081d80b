"""What to run: studies, fits, codes, and the tables of what came out."""
