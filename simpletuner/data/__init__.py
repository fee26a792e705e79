"""Training images and captions: where they are, what will happen to them, and in which order they are used."""
