"""The notebook that holds runs: its cells, what they record, and how it is saved."""
