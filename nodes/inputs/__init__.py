"""What nodes ask for: their widgets, socket types, presets and prompt files."""
