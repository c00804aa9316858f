"""``fam-bench``: the runtime beside PyTorch, in time, memory and fidelity, in one run.

Data flows one way: `plan` lists units of work, `rounds` times them in turn (each in a `worker`
process that does the `work`), `figures` and `parts` make numbers of it, `report` and `plots` show
them, and `compare` sets two runs side by side.
"""
