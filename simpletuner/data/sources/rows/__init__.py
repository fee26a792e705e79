"""Images in the rows of a data set of the library `datasets`, from the Hub or from a folder."""
