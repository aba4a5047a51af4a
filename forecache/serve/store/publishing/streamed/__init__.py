"""A publish onto a stream: the rows up to the cut that the batch cannot have seen, over the rows of the batch."""
