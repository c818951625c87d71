"""Hashing inside a world: a row computes the few neurons that hash tables find for it.

After Spring and Shrivastava, "Scalable and sustainable deep learning via randomized hashing", KDD
2017. `codes` makes hash codes of vectors, `tables` finds the neurons that have them, `picking`
makes a row's active set of those, `layer` keeps a layer's tables up, `steps` trains with them.
"""
