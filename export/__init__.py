"""export: from a run folder to a bundle - ONNX, TFLite, quantization, the parity ladder, and the only bundle writer.

What comes in is a run that `train evaluate` has measured, with its index; what goes out is a bundle folder as
``docs/bundle-format.md`` describes it, or a refusal that names the gate that failed. Nothing is trained here, and no
picture is decoded or scaled here: pixels come from ``train.pixels``, outputs from ``edge_runtime.engines``.
"""
