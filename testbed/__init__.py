"""The small worlds as models in ComfyUI: built, drawn with, judged, served and shown."""
