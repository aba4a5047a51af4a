"""Reading a pinned version of the training set, as a stream in an order that depends on the seed and the epoch alone.

The order of an epoch: the row groups that hold rows of the split are permuted by (seed, epoch) and laid end to end;
that sequence is cut into `lanes` equal streams; each lane is shuffled within consecutive windows of a bounded
number of rows; step k of `num_steps` takes an equal share of every lane. A worker reads only its lanes (lane i
belongs to rank i modulo the world size), so the rows of a step are the same for any number of workers, every row
comes exactly once an epoch, and a position is just (epoch, step).

Columns go from Arrow straight into tensors: float32, nulls as NaN.
"""
