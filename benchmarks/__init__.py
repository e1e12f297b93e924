"""Measurements on the playground, one command each; what holds there is a ranking of mechanisms, not a number for SD 1.5."""
