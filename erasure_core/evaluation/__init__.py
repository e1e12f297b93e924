"""How well a concept is gone and everything else still there: base and erased model on the same noise."""
