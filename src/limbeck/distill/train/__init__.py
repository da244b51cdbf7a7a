"""Training, on Accelerate: a student with or without a teacher, or peers that learn from each other.

A run can stop at any moment: at the end of every epoch a checkpoint is put in place atomically, and everything random
in an epoch (order, views, dropout) follows from (seed, epoch) alone, so a resumed training takes the same steps as one
that was never interrupted.
"""

from limbeck.distill.train.learner import History
from limbeck.distill.train.loop import fit, fit_mutual
from limbeck.distill.train.schedule import learning_rate, steps_in_epoch

__all__ = ["History", "fit", "fit_mutual", "learning_rate", "steps_in_epoch"]
