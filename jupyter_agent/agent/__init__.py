"""The loop: ask a model, run the code that it writes, show it what came out, until it answers."""
