"""Files that need nothing of this package: an exported folder takes them along and works where it is not installed.

`plain_scl` is the model's plain definition, which the published schedule computes with as well. Inside this folder
imports are relative, as transformers wants them of code that lies beside weights.
"""

CAPTIONS = "captions_scl.py"
"""What an export has `sclds/data/captions.py` under, which imports nothing but the standard library."""
FILES = (
    "configuration_scl.py",
    "image_processing_scl.py",
    "modeling_scl.py",
    "parameters_scl.py",
    "plain_scl.py",
    "processing_scl.py",
)
"""What an exported folder takes along."""
