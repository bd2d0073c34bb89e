"""What a run and its user exchange: values, tools, approval, permission."""
