"""Files of other programs: read untrusted torch and safetensors files, and write state dicts and ONNX.

Start with ``importing.py`` and ``exporting.py``. This room may import every room below it: ``training`` for
checkpoints, ``networks``, ``methods`` and ``masking``.
"""
