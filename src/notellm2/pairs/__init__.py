"""Training and test pairs: splits without leakage, co-occurrence mining. The only room that imports numba."""
