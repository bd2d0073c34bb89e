"""All code that runs inside the sandbox: the standard library and ipykernel only."""
