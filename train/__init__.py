"""train: public smear sets -> index -> split -> fit -> evaluate -> run folder.

What comes in is a folder of smear pictures in the layout their authors published; what goes out is a run folder
(``weights.safetensors``, ``run.json``, curves) that ``export`` turns into a bundle. This package never writes a
bundle, and prepares pictures only through ``edge_runtime.preprocess``, so that a network is trained on exactly the
pixels the device will see. torch lives here; it is imported inside the functions that need it.
"""
