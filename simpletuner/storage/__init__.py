"""Bytes by key: where caches and files live, and nothing about what they mean."""
