"""Small real servers that tests talk to over HTTP."""
