"""Answers over HTTP, the next ensemble taking over as soon as there is one.

`app` is the web service around an `answering.Answerer`, and knows nothing of Ray;
`executors.serve` puts it on a cluster.
"""
