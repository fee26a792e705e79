"""Named tensors by content: what is expensive to compute is computed once."""
