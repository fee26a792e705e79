"""What a run gives to others: a model card, and uploads that wait on disk until the Hub has them."""
