"""The playground as a model in ComfyUI: built, drawn with, judged, served and shown."""
