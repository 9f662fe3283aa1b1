"""A network as a graph of units and weights: paths, random walks, the path kernel, widths and collapse.

``unit_tracing.trace`` turns a network (recorded by ``recording.py``) into the graph of ``unit_graph.py``. On the way,
``layer_calls.py`` finds layers and their weights, and ``unit_tensors.py`` numbers units and merges them.
``diagnostics.py`` counts what a mask leaves of it, and ``random_walks.py`` walks on it for PHEW. This room imports
``masking`` and ``errors``.
"""
