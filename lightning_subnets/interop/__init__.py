"""Files of other programs: read untrusted torch and safetensors files, and write state dicts and ONNX.

Start with ``importing.py``, ``exporting.py`` and ``model_card.py``. This room may import every room below it:
``training`` for checkpoints, ``subnet_file``, ``networks``, ``methods`` and ``masking``.
"""
