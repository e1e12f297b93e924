"""The ComfyUI shell around `erasure_core`: schemas and wiring, no maths."""
