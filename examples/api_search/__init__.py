"""Search over the documentation of installed Python packages: a sentence in, qualified names out.

The rows are real English, need no download, and the same versions of the
packages always give the same bytes. See `examples.api_search.dataset.build`.
"""
