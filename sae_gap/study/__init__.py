"""Studies: their jobs, fits, codes and scores, and the one runner of them."""
