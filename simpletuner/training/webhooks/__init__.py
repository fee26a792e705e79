"""Messages about a run to other services: what is said, to whom, and how it gets there beside the training."""
