"""The sample: a deterministic export of notes, pictures and a week of behaviour, made by `notellm2 sample`."""
