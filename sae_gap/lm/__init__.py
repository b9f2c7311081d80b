"""Language models: records their activations, and puts reconstructions back into them."""
