"""The sandbox: a kernel of the agent's own, and what confines it.

`kernel` drives one such kernel, `provisioner` starts and confines it, `files` says which of the
user's files it may read, `outputs` what may leave it. `__main__`, `guest` and `lockdown` run inside
and import nothing but the standard library and ipykernel; so nothing is imported here.
"""
