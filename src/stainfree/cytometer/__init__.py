"""The imaging flow cytometer's own files, read without the vendor's software and without Java.

The instrument is the ImageStream or FlowSight. Its raw images are a ``.rif``, the compensated ones a ``.cif``: both are
TIFFs of a kind that common readers refuse (`tiff`, `codecs`, `cif`). What was measured and gated in the vendor's
software is a ``.daf`` (`daf`).
"""
