"""The workflows of this pack, each drawn up by a function of its name; `devtools.make_workflows` lists and writes them."""
