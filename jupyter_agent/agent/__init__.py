"""The loop: ask a model, run the code it writes, show it the outputs, until it answers."""
