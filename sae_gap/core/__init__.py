"""The nouns and the mathematics that everything else is built on."""
