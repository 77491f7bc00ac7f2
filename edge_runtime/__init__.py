"""edge_runtime: classify blood-smear pictures with a bundle, and explain each answer, on a small computer.

What comes in is a picture and a bundle (model, labels, preprocessing, thresholds, golden test); what goes out is a
`Prediction`. numpy, Pillow and one inference engine are all it needs. It trains nothing, converts nothing and opens no
network connection. Decision support for research: not a medical device and not a diagnosis.
"""

__version__ = "0.1.0"

DEFAULT_MODEL = "all-subtypes"
"""The bundle that answers when none is named."""

TRUST_VARIABLE = "LEUKOSCOPE_TRUST"
"""The environment variable that names the trust file of the command line when ``--trust`` does not."""
