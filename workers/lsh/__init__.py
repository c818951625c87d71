"""Hashing inside a world: a row computes the few neurons that hash tables find for it.

After Spring and Shrivastava, "Scalable and sustainable deep learning via randomized hashing", KDD
2017. `codes` makes hash codes of vectors, `tables` finds the neurons that have them, `picking`
makes active sets of those, `layer` keeps a layer's tables up and `chooser` asks them. `steps`
trains with a set for each row, `shared` with one for a batch; `network` puts them together.
"""
