"""A network as units and weights: walks, paths, the path kernel, widths and collapse."""
