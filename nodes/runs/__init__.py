"""What a node does when it runs, without its schema: erasing, evaluating, attacking, and their progress."""
