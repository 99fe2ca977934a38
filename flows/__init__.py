"""What runs, in what order, retried how. No model code here: each task calls one function of the library."""
