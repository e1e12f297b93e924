"""The inputs of nodes: their widgets, socket types, presets and prompt files."""
