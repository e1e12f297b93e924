"""The files that nodes write: their names, and the folders of an evaluation."""
