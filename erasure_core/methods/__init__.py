"""One erasure method a file; `method.methods()` finds them all."""
