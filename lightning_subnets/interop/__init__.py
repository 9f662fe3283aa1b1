"""Files of other programs: read torch and safetensors files that are not trusted, write state dicts and ONNX.

Start with ``importing.py`` and ``exporting.py``. This room may import every room below it: ``training`` for
checkpoints, ``networks``, ``methods`` and ``masking``.
"""
