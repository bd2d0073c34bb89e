"""The sandbox: a kernel of the agent's own, and what confines it.

`client` drives one such kernel, `isolation` starts and confines it and says which of the user's
files it may read, `filter` says what may leave it. `__main__` and `guest` run inside and import
nothing but the standard library and ipykernel; so nothing is imported here.
"""
