"""A few questions, and from the answers a config that works. Asking is one part, what the answers mean another."""
