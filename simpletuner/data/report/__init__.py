"""What is worth knowing about data sets before training on them: facts, advice, and a page that shows both."""
