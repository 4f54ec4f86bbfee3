"""The model checked against measurements without it: captures of both kernels, and samples."""
