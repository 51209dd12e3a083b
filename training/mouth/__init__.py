"""Training of the mouth model: `python -m training.mouth` makes the corpus, trains, measures and writes the weights.

See README.md in this folder. Nothing here is needed to render.
"""
