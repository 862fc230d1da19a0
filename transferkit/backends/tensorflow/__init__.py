"""The TensorFlow backend; the entry point names a class of the module `backend`."""
