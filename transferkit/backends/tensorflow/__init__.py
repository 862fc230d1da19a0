"""The TensorFlow backend; the entry point names a class of the module `backend`."""

from transferkit.backends.tensorflow.loading import load_tensorflow

# Before any module here imports it.
load_tensorflow()
