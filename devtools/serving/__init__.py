"""A ComfyUI server and a browser in processes of their own."""
