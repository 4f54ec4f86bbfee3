"""What the model says beside what is measured without it: captures of both kernels, and samples."""
