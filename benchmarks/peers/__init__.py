"""Other servers with the same model, each as its own documentation writes it, in an environment of its own."""
