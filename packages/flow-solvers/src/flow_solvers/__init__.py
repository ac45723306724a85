"""Fixed points and their adjoints, batched, to a tolerance that every sample keeps."""
