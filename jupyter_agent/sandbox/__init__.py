"""The sandbox: a kernel of the agent's own, and what confines it.

`client` is what the rest of the package uses: it starts such a kernel and runs code in it, by way
of `connection` and `execution`. `isolation` confines the kernel and says which of the user's files
it may read, `filter` says what may leave it. `__main__` and `guest` run inside and import nothing
but the standard library and ipykernel; so nothing is imported here.
"""
