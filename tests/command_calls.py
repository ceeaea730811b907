"""What each command is in Python."""

# the call of each command: a public name, or where it is
CALLS = {
    "predict": "predict",
    "objects": "find_objects",
    "summary": "summarise",
    "status": "status",
    "finish": "masks.open_partial",
    "train": "train",
    "evaluate": "evaluate",
    "verify": "verify",
    "bench": "bench",
    "preview": "draw_preview",
    "tissue": "write_tissue",
    "info": "describe",
    "models": "bundled_models",
    "networks": "describe_network",
    "suggest": "suggest",
    "view": "viewer.open_scene",
    "open": "viewer.elsewhere.open_for",
    "import": "import_weights",
    "export": "export",
}

# about the shell, so that there is nothing to call
OF_THE_SHELL = {"completion"}
