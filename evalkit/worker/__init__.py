"""The simulator's side: runs in the suite's own environment, on the standard library, numpy and msgpack."""
