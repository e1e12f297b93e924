"""Concept Erasure: remove a concept from a loaded diffusion model, and leave the rest as it was."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The pack's extension, as ComfyUI asks for it."""
    from .nodes.extension import ConceptErasure

    return ConceptErasure()
