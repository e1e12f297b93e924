"""The work of the nodes, without their schemas: erasing, evaluating, attacking, and their progress."""
