"""Views: callables that show a `Change` of the transcript, each in its own place."""
