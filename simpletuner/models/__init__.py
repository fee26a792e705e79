"""Model families and everything that is done to a model: precision, adapters, token routing, memory."""
