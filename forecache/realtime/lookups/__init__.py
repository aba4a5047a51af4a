"""From the columns of a request to the matrices that it looks up."""
