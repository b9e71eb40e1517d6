"""First wing: from a folder of recordings to log-mel spectrograms. Imports no TensorFlow."""
