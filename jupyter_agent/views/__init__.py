"""Views: each shows the changes of a transcript in its own place."""
