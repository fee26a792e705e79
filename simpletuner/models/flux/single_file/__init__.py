"""FLUX.1 as single files: what a file holds, which shape it has, and where its tensors belong. Needs no network."""
