"""Files from the web: addresses, careful connections, and downloads that are made once."""
