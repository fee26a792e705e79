"""Images in tar shards (WebDataset), which are read by range and never unpacked."""
