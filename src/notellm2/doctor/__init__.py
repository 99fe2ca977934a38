"""Checks of what can be known before an hour of training: ``notellm2 doctor``, and the beginning of a retraining."""
