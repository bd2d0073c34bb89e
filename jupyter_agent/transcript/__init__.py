"""The notebook that holds runs: its cells, what is read from them, and how it is saved."""
