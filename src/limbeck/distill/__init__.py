"""Learning from a teacher: objectives, teachers, the cache of their outputs, the training loop."""
