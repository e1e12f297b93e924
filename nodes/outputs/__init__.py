"""What nodes write: names of files, and the folders of an evaluation."""
