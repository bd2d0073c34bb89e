"""What may leave the sandbox: everything that a guest or a model sends is read anew here."""
