"""A fleet in one process and in no time: the real decisions under a simulated clock, network, nodes and faults.

Everything is drawn from one seed: a run is a function of the seed, the sizes and the code. `python -m hub.simulation`
runs it; docs/simulation.md tells how to read what it finds.
"""
